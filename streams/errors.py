"""Every exception that a user can meet, in one tree.

StreamsError
├── ConfigurationError                 wrong before anything ran
│   ├── MissingFallback                a tool or model without a declared fallback
│   ├── DuplicateName                  two agents, tools or models of one name
│   ├── UnknownName                    an agent, tool or model that the app does not have
│   ├── SettingsError                  a setting that is unknown or does not validate
│   └── PrerequisiteMissing            something on the machine that must be installed or pointed to
├── InvalidInput                       a value that does not fit; names the field
├── PayloadTooLarge                    a payload over its bound, with both
├── Conflict                           an invocation ID used before with another input
├── Backpressure                       the lane is over its limit; carries retry_after_s
│   └── TooManyWaiting                 so many submissions wait in this process that no more may
├── InvocationFailed                   the value of an invocation that did not succeed was asked for
├── ResultTimeout                      a result that did not come within the time the caller gave
├── UnknownInvocation                  an ID that no shard and no store knows
├── BrokerError                        the log
│   ├── BrokerUnavailable              not reachable or no answer in time; names address and setting
│   ├── Fenced                         another owner of the same name has started
│   ├── CommitAmbiguous                a commit whose outcome is unknown
│   ├── OwnershipLost                  the group has moved on without this member
│   ├── PositionOutOfRange             a position that is outside the log
│   ├── RestoreTooSlow                 a shard that took longer to read than its topic keeps tombstones
│   ├── RecordTooLarge                 over the topic's max.message.bytes
│   └── TopicError                     a topic that is missing, refused, or differs from the catalogue
├── StoreError                         Postgres
│   └── StoreUnavailable               not reachable or no answer in time; names address and setting
├── ControlSilent                      an order that the control plane did not follow in time
├── Unavailable                        raised by a tool: its dependency is out, and may have said for how long
├── Throttled                          raised by a tool: its dependency wants fewer calls (429), and no breaker for it
├── ToolsStuck                         threads of tools that never return, more than a worker keeps
├── CodecError                         bytes that are not the record they should be
│   └── UnknownSchema                  a fingerprint that this process does not know
└── HandlerError                       raised inside agent handlers
    ├── NotDurable                     I/O, threads or processes in a handler; put them in a tool
    ├── NonDeterminism                 a handler that asked for something else when it was run again
    ├── AgentDeadlock                  a call chain that comes back to an instance that waits for it
    ├── ChildFailed                    a child invocation that failed, was cancelled or refused
    ├── DeadlineExceeded               the invocation's deadline passed
    ├── StateUnavailable               it passed while the agent's state could not be read from Postgres
    ├── BudgetExceeded                 the next call would pass the budget
    ├── SignalTimeout                  a signal that did not come in time
    ├── ModelRefused                   a model provider that refused the request (400), with its words
    ├── UnusableAnswer                 a model's answer that is cut off, empty or not of the type asked for
    ├── ToolRefused                    an HTTP or MCP tool that answered with an error of the caller's, with its words
    └── VersionConflict                a write whose expected version is not the current one
"""

from __future__ import annotations

from collections.abc import Mapping


class StreamsError(Exception):
    """Base of every exception that this package raises on purpose."""


class ConfigurationError(StreamsError):
    """Something is declared or configured wrongly; found before anything runs."""


class MissingFallback(ConfigurationError):
    """A tool or model was declared without `fallback=` or `fallback_fn=`."""


class DuplicateName(ConfigurationError):
    """Two agents, tools or models of one app share a name."""


class UnknownName(ConfigurationError):
    """An agent, tool, model, module or app of that name does not exist."""


class SettingsError(ConfigurationError):
    """A setting is unknown or its value does not validate."""


class PrerequisiteMissing(ConfigurationError):
    """The machine lacks something; the message names it and the ways to fix it."""


class InvalidInput(StreamsError):
    """A value does not fit its type or bound; the message names the field."""


class PayloadTooLarge(StreamsError):
    """A payload exceeds its bound.

    Attributes:
        size_bytes: Size of the payload once encoded.
        limit_bytes: The bound, from the setting that the message names.
    """

    def __init__(self, what: str, size_bytes: int, limit_bytes: int, setting: str) -> None:
        super().__init__(
            f"{what} of {size_bytes / 1e6:.2f} MB exceeds {limit_bytes / 1e6:.2f} MB ({setting}); "
            "store it elsewhere and pass a reference"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class Conflict(StreamsError):
    """An invocation ID was used before with another input."""


class Backpressure(StreamsError):
    """The lane is over its limit.

    Attributes:
        retry_after_s: Seconds after which the lane is expected to have room again.
    """

    def __init__(self, lane: str, retry_after_s: float, message: str = "") -> None:
        said = f"lane {lane!r} is over its limit; try again in {retry_after_s:.1f} s, or submit with wait=True"
        super().__init__(message or said)
        self.lane = lane
        self.retry_after_s = retry_after_s


class TooManyWaiting(Backpressure):
    """As many submissions wait for the lane in this process as may; the producer should slow down itself."""

    def __init__(self, lane: str, waiting: int, size_bytes: int, retry_after_s: float) -> None:
        message = (
            f"{waiting} submissions of {size_bytes / 1e6:.1f} MB wait for lane {lane!r} already, and no more may in "
            "this process (STREAMS_CLIENT__MAX_WAITING, STREAMS_CLIENT__MAX_WAITING_BYTES); submit less at a time"
        )
        super().__init__(lane, retry_after_s, message)


class InvocationFailed(StreamsError):
    """An invocation ended without a value.

    Attributes:
        invocation_id: Which one.
        status: `failed`, `cancelled` or `deferred`.
        error_type: Class name of its error.
    """

    def __init__(self, invocation_id: str, status: str, error_type: str, message: str) -> None:
        super().__init__(f"{invocation_id} {status}: {error_type}: {message}")
        self.invocation_id = invocation_id
        self.status = status
        self.error_type = error_type


class ResultTimeout(StreamsError, TimeoutError):
    """No result within the time the caller gave. The invocation goes on; ask again with `client.handle(id)`."""


class UnknownInvocation(StreamsError):
    """No shard and no store knows an invocation of that ID."""


class BrokerError(StreamsError):
    """Base of what goes wrong between this process and the log."""


class BrokerUnavailable(BrokerError):
    """The log cannot be reached or did not answer in time."""


class Fenced(BrokerError):
    """Another owner with the same transactional ID has started; this one must stop."""


class CommitAmbiguous(BrokerError):
    """A commit may or may not have happened; only the log knows. The process must end."""


class OwnershipLost(BrokerError):
    """The consumer group has moved on; the partitions may have another owner."""


class PositionOutOfRange(BrokerError):
    """A position is outside the log: retention has passed it, or it is beyond the end."""


class RestoreTooSlow(BrokerError):
    """A shard was not read within the time for which its topic keeps tombstones; see `Catalogue.tombstones_s`."""

    def __init__(self, topic: str, partition: int, records: int, limit_s: float) -> None:
        super().__init__(
            f"shard {partition} was not restored: {records:,} records were read, the end of {topic} was not reached "
            f"within {limit_s:.0f} s (its delete.retention.ms), so that deletes may be missing; start more processes, "
            "so that each owns fewer shards"
        )


class RecordTooLarge(BrokerError):
    """A record exceeds the topic's `max.message.bytes`."""


class TopicError(BrokerError):
    """A topic is missing, was refused by the broker, or differs from the catalogue."""


class StoreError(StreamsError):
    """Base of what goes wrong between this process and Postgres."""


class StoreUnavailable(StoreError):
    """Postgres cannot be reached or did not answer in time."""


class ControlSilent(StreamsError):
    """The control plane did not follow an order in time; it stays on its topic for an hour."""


class Unavailable(StreamsError):
    """A tool raises it when its dependency says that it is out (503, 529): a failure like any other, with a time.

    Attributes:
        retry_after_s: For how long the dependency asked to be left alone; the breaker's open time honours it. 0 where
            it did not say.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Throttled(StreamsError):
    """A tool raises it when its dependency wants fewer calls (429): the tool's limiter waits, no breaker counts it.

    Attributes:
        retry_after_s: For how long the dependency asked to be left alone; 0 where it did not say.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ToolsStuck(StreamsError):
    """Threads of tools have not returned long after their timeouts, more than the bound; the worker must end."""


class CodecError(StreamsError):
    """Bytes are not the record that they should be."""


class UnknownSchema(CodecError):
    """A record was written with a schema that this process does not know."""


class HandlerError(StreamsError):
    """Base of what agent handlers can meet at a step."""


class NotDurable(HandlerError):
    """I/O, threads or processes were used in a handler; they belong in a tool."""


class NonDeterminism(HandlerError):
    """A handler asked for something else when it was run again over its journal."""


class AgentDeadlock(HandlerError):
    """A call chain came back to an agent instance that waits for it."""


class ChildFailed(HandlerError):
    """A child invocation ended without a value.

    Attributes:
        invocation_id: The child's.
        error_type: Type of the child's error, as in its result.
    """

    def __init__(self, invocation_id: str, error_type: str, message: str) -> None:
        super().__init__(f"{invocation_id} failed: {error_type}: {message}")
        self.invocation_id = invocation_id
        self.error_type = error_type


class DeadlineExceeded(HandlerError, TimeoutError):
    """The deadline of the invocation passed."""


class StateUnavailable(HandlerError, TimeoutError):
    """The deadline of the invocation passed while its agent's state could not be read from Postgres."""


class BudgetExceeded(HandlerError):
    """The next call would pass the invocation's or the tenant's budget."""


class SignalTimeout(HandlerError, TimeoutError):
    """A signal did not arrive within its timeout."""


class UnusableAnswer(HandlerError):
    """A model's answer is not of the type asked for: cut off, empty, stopped by a filter, not JSON, or of another form.

    The answer itself is `reply.text`, and why it ended `reply.finish_reason`.
    """


class ModelRefused(HandlerError):
    """The model provider refused the request (400); the message has its words."""


class ToolRefused(HandlerError):
    """The service behind an HTTP or MCP tool answered, and what it said is an error: nothing to retry or to trip over.

    Attributes:
        status: The HTTP status; 0 where there is none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return self.message


class VersionConflict(HandlerError):
    """A write expected another version than the current one, and changed nothing.

    Attributes:
        expected: Version vector that the writer had seen.
        current: The record's.
        writers: Who wrote in between, the latest first.
        others: Writes of those that the version does not name any more.
        relation: What the expected version is to the current one: `older`; or `newer` or `concurrent`, where it comes
            from another history (a log restored from a backup, a version that was made up).
    """

    def __init__(
        self,
        message: str,
        *,
        expected: Mapping[str, int] | None = None,
        current: Mapping[str, int] | None = None,
        writers: tuple[str, ...] = (),
        others: int = 0,
        relation: str = "older",
    ) -> None:
        super().__init__(message)
        self.expected = dict(expected or {})
        self.current = dict(current or {})
        self.writers = writers
        self.others = others
        self.relation = relation


def named(name: str) -> type[StreamsError]:
    """Return the exception class of that name, `HandlerError` for one that is not of this tree."""
    kind = globals().get(name)
    return kind if isinstance(kind, type) and issubclass(kind, StreamsError) else HandlerError
