"""Work that shards hand out and the outcomes that come back: tool calls, claims, LLM requests, tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streams.records.ids import StepId

Effect = Literal["read", "idempotent", "at-most-once"]
OutcomeStatus = Literal["ok", "raised", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        arguments: JSON object of keyword arguments.
        deadline_ms: After it nobody waits any more; an expired call is answered without being run.
        probe: Breaker generation that stamps a half-open probe; empty for ordinary calls.
    """

    invocation: str
    incarnation: int
    step: int
    tool: str
    arguments: bytes
    effect: str
    issued_at_ms: int
    deadline_ms: int
    tenant: str = ""
    priority: str = "normal"
    probe: str = ""
    traceparent: str = ""

    @property
    def id(self) -> StepId:
        """The step that asked."""
        return StepId(self.invocation, self.incarnation, self.step)


@dataclass(frozen=True, slots=True)
class ToolCancel:
    """Nobody waits for a tool call any more; written to the call's topic, behind it.

    A call that has not begun is not begun, one that only reads is stopped, any other ends what it is at and is not
    retried. It is answered all the same, as `cancelled` where it has not ended by itself.
    """

    invocation: str
    incarnation: int
    step: int
    tool: str

    @property
    def id(self) -> StepId:
        """The step that has asked."""
        return StepId(self.invocation, self.incarnation, self.step)


@dataclass(frozen=True, slots=True)
class ToolNotice:
    """Why a call is not answered yet: a worker's word to the shard, for whoever asks. Not an answer."""

    invocation: str
    incarnation: int
    step: int
    tool: str
    reason: str
    worker: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ToolClaim:
    """Written before an at-most-once call starts; found without a result, the call may have happened.

    Attributes:
        tool: Name of the tool, or of the model pool.
    """

    invocation: str
    incarnation: int
    step: int
    tool: str
    worker: str
    claimed_at_ms: int

    @property
    def id(self) -> StepId:
        """The step that is claimed."""
        return StepId(self.invocation, self.incarnation, self.step)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The outcome of a tool call.

    Attributes:
        status: `ok` (value is the JSON of what it returned), `raised` (an error that the tool declares; crosses to
            the agent), `invalid` (arguments that do not fit; told to the agent), `failed` (the fallback applies).
        cause: With `failed`, why: `timeout`, `error`, `interrupted`, `expired`, `open`, `unencodable`,
            `throttled`, `cancelled`.
        elapsed_s: Seconds in the tool, all attempts together.
    """

    invocation: str
    incarnation: int
    step: int
    tool: str
    status: str
    value: bytes | None = None
    error_type: str = ""
    error_message: str = ""
    cause: str = ""
    attempts: int = 1
    elapsed_s: float = 0.0
    worker: str = ""

    @property
    def id(self) -> StepId:
        """The step that is answered."""
        return StepId(self.invocation, self.incarnation, self.step)


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One request to a model pool.

    Attributes:
        request: JSON object: messages, tools, response schema, parameters.
        input_tokens: Estimate of the input's tokens.
        max_output_tokens: Bound on the output's tokens; 0 leaves it to the pool.
    """

    invocation: str
    incarnation: int
    step: int
    model: str
    request: bytes
    issued_at_ms: int
    deadline_ms: int
    input_tokens: int = 0
    max_output_tokens: int = 0
    tenant: str = ""
    priority: str = "normal"
    stream: bool = False
    probe: str = ""
    traceparent: str = ""

    @property
    def id(self) -> StepId:
        """The step that asked."""
        return StepId(self.invocation, self.incarnation, self.step)


@dataclass(frozen=True, slots=True)
class LlmResult:
    """The outcome of an LLM request.

    Attributes:
        status: `ok`, `invalid` (the provider refused the request; told to the agent), `raised` (the tenant's budget
            would be passed; crosses to the agent) or `failed` (the fallback applies).
        value: JSON object: text, tool calls, finish reason.
        cause: With `failed`: `outage`, `deadline`, `too_large`, `unencodable`, `budget`, `interrupted` (the pool is
            at-most-once, and the request may have been answered there).
        held_s: Seconds that it waited for its turn.
        cost: In the currency of the price table.
        served_by: Pool and model, `pool:model`.
        tenant: As in the request; who is billed.
    """

    invocation: str
    incarnation: int
    step: int
    model: str
    status: str
    value: bytes | None = None
    error_type: str = ""
    error_message: str = ""
    cause: str = ""
    attempts: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    elapsed_s: float = 0.0
    held_s: float = 0.0
    served_by: str = ""
    tenant: str = ""

    @property
    def id(self) -> StepId:
        """The step that is answered."""
        return StepId(self.invocation, self.incarnation, self.step)


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """A piece of a model's answer while it is written. Best effort: the result has the whole.

    Attributes:
        index: Counts the pieces of one call from 0. A call that is repeated starts over at 0, and with it the text.
    """

    invocation: str
    incarnation: int
    step: int
    index: int
    text: str
