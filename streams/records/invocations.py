"""What is asked of agents and what comes out: invocations, their results, and what children report to parents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Priority = Literal["high", "normal", "low"]
ResultStatus = Literal["succeeded", "failed", "cancelled", "deferred"]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One request to one agent instance; on `invocations`, or on `inbox` when another agent asks.

    Attributes:
        input: The agent's input as JSON.
        deadline_ms: Milliseconds since the epoch after which the invocation is ended as failed.
        not_before_ms: Milliseconds since the epoch before which the handler does not start; 0 starts at once.
        parent: Invocation ID of the agent that asked; empty for clients.
        parent_awaits: The parent waits for the outcome; otherwise it only started the child.
        chain: Agent IDs that wait for this invocation, outermost first; a child that would come back to one of them
            is a deadlock.
        traceparent: W3C trace context.
    """

    agent: str
    key: str
    idempotency_key: str
    input: bytes
    submitted_at_ms: int
    deadline_ms: int
    not_before_ms: int = 0
    tenant: str = ""
    priority: str = "normal"
    parent: str = ""
    parent_incarnation: int = 0
    parent_step: int = 0
    parent_awaits: bool = False
    chain: tuple[str, ...] = ()
    depth: int = 0
    traceparent: str = ""

    @property
    def id(self) -> str:
        """The public invocation ID."""
        return f"{self.agent}/{self.key}/{self.idempotency_key}"

    @property
    def agent_id(self) -> str:
        """The agent instance that it is for; its shard is that of this ID."""
        return f"{self.agent}/{self.key}"


@dataclass(frozen=True, slots=True)
class Result:
    """How an invocation ended; exactly one for each invocation, repeated (and marked so) for a repeated submission.

    Attributes:
        status: `succeeded`, `failed`, `cancelled`, or `deferred` (refused for now, nothing was kept).
        value: JSON of what the handler returned, when it succeeded.
        error_type: Class name of the error, when it failed.
        error_field: The input field that the error is about, where there is one.
        degraded: At least one step was answered by a fallback.
        repeated: The invocation had finished before; this is the same result again.
        retry_after_s: With `deferred`, when to come back.
        steps: Durable operations that the handler awaited.
        cost: In the currency of the price table.
        input_digest: Tells whose input this answers when an ID was used with two different ones.
    """

    agent: str
    key: str
    idempotency_key: str
    status: str
    value: bytes | None = None
    error_type: str = ""
    error_message: str = ""
    error_field: str = ""
    degraded: bool = False
    repeated: bool = False
    retry_after_s: float = 0.0
    tenant: str = ""
    version: str = ""
    steps: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    submitted_at_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    input_digest: bytes = b""
    traceparent: str = ""

    @property
    def id(self) -> str:
        """The public invocation ID."""
        return f"{self.agent}/{self.key}/{self.idempotency_key}"


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """Told by a child's shard to the parent's, on `inbox`.

    Attributes:
        result: The child's result, encoded as on the result topic.
    """

    parent: str
    incarnation: int
    step: int
    child: str
    result: bytes
