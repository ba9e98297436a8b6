"""What the fleet's record of a dependency says to a caller: nothing, or that the call must not go out, and why."""

from __future__ import annotations

from dataclasses import dataclass

from streams.records.control import BreakerState

REFUSING = frozenset({"open", "half-open", "forced-open"})
"""Phases that keep ordinary calls from going out."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The call must not go out; its fallback applies.

    Attributes:
        until_ms: When the breaker may change its mind, in ms since the epoch; 0 when only an operator can.
    """

    dependency: str
    phase: str
    reason: str
    until_ms: int


def refusal_of(state: BreakerState, reason: str = "") -> Refusal:
    """Return the refusal that follows from an open, half-open or forced-open state."""
    return Refusal(state.dependency, state.phase, reason or state.reason, state.until_ms or state.probe_expires_ms)


def has_expired(state: BreakerState, now_ms: int, grace_s: float) -> bool:
    """Tell whether a record should have been followed by another one: the control plane is silent.

    Only the machine's `open` and `half-open` run out; what an operator forced stands until it is changed.
    """
    match state.phase:
        case "open":
            return now_ms >= state.until_ms + grace_s * 1000
        case "half-open":
            return now_ms >= state.probe_expires_ms + grace_s * 1000
        case _:
            return False


def refuses(state: BreakerState, now_ms: int, grace_s: float) -> bool:
    """Tell whether the fleet's record keeps ordinary calls (those without a lease) from going out."""
    return state.phase in REFUSING and not has_expired(state, now_ms, grace_s)
