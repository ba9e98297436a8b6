"""What a tool may know of the call that it serves."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallInfo:
    """The call that a tool is serving; `streams.call_info()` returns it.

    Attributes:
        idempotency_key: The same for every attempt of the same step, unique for each step: pass it to the dependency.
        attempt: 1 for the first.
        deadline_s: Seconds since the epoch after which nobody waits for the answer.
    """

    idempotency_key: str
    invocation_id: str
    tenant: str
    attempt: int
    deadline_s: float


current_call: ContextVar[CallInfo | None] = ContextVar("current_call", default=None)


def call_info() -> CallInfo | None:
    """Return the call that the current tool serves; None outside of a tool worker (in the tool's own tests)."""
    return current_call.get()
