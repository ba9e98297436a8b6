"""What is told to or asked of a running shard: signals, cancels, operators' orders, queries, and the answers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Signal:
    """A value for a handler that waits for it (`ctx.signal`), or will.

    Attributes:
        value: JSON.
        signal_id: The same ID is delivered once.
    """

    invocation: str
    name: str
    value: bytes
    signal_id: str
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """A wish to end an invocation; its handler sees `CancelledError` and may clean up."""

    invocation: str
    reason: str
    requested_by: str
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's order.

    Attributes:
        action: `resume`, `restart`, `fail` on an invocation; `pause`, `unpause` on an agent name (sent to every shard);
            `erase` on an agent ID or shared record; on `outcomes`: `open`, `close`, `reset`, `metrics-only` on a
            dependency's breaker.
        target: Invocation ID, agent ID, agent name or dependency.
        request_id: Echoed in the answer; of a breaker's order, kept in the breaker's record.
        client: Whom to answer; empty for no answer.
    """

    action: str
    target: str
    reason: str
    ordered_by: str
    sent_at_ms: int
    client: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """Where is this invocation? Answered on `answers`."""

    invocation: str
    client: str
    request_id: str
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class StateRead:
    """A client's read of agent state.

    Attributes:
        record: Name of the state field; empty reads all that are no logs.
        before: Of a log: the position that the page ends before; -1 for its end.
        size: Of a log: the most entries of the page.
    """

    agent_id: str
    record: str
    client: str
    request_id: str
    sent_at_ms: int
    before: int = -1
    size: int = 100


@dataclass(frozen=True, slots=True)
class StateWrite:
    """A client's write to agent state, applied only while *expected* is still the record's version.

    Attributes:
        expected: Version vector (writer to count) that the client has seen; empty for a record never written.
        writer: Name of the client or operator that the new version is counted for.
    """

    agent_id: str
    record: str
    value: bytes
    writer: str
    client: str
    request_id: str
    sent_at_ms: int
    expected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SharedRequest:
    """A read, write or delete of a shared record, sent to the shard that owns it.

    Attributes:
        operation: `read`, `write` or `delete`.
        expected: Version that the record must have, empty for one never written; None for any: the last write wins.
        origin: Invocation ID that asks; empty for a client.
        request_id: Of a client's request; the same one is applied once.
        after: With *expected*, the request that must have made that version: two writes of one writer that are under
            way at once would make versions of the same look.
    """

    name: str
    key: str
    operation: str
    writer: str
    sent_at_ms: int
    value: bytes | None = None
    expected: dict[str, int] | None = None
    origin: str = ""
    incarnation: int = 0
    step: int = 0
    client: str = ""
    request_id: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class SharedOutcome:
    """The answer to a `SharedRequest` of an agent.

    Attributes:
        status: `ok`, `conflict` or `refused`.
        value: The record's after the request, JSON; None where it does not exist.
        version: Likewise.
        writers: With `conflict`, who wrote since the expected version, the latest first.
        others: With `conflict`, further writes of writers that the version does not name any more.
        message: With `refused`, why.
    """

    origin: str
    incarnation: int
    step: int
    status: str
    value: bytes | None = None
    version: dict[str, int] = field(default_factory=dict)
    writers: tuple[str, ...] = ()
    others: int = 0
    name: str = ""
    key: str = ""
    operation: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a shard tells a client that asked.

    Attributes:
        status: `ok`, `unknown`, `refused` or `conflict`.
        value: JSON; its form depends on what was asked.
        result: The encoded `Result`, when a finished invocation was asked for.
    """

    client: str
    request_id: str
    status: str
    value: bytes = b"null"
    message: str = ""
    result: bytes | None = None
