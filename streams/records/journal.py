"""What a shard writes to itself: journals of invocations, completion markers, the cursor, the filter of evicted agents.

Completions are stored as already encoded bytes, so that rewriting a journal record costs a copy and not an encoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Completion:
    """The outcome of one step, as it was applied to a handler.

    Attributes:
        step: Number of the step within the incarnation.
        kind: `start`, `tool`, `llm`, `child`, `timer`, `signal`, `cancel`, ...
        name: Of the tool, model, agent or signal.
        status: `ok`, `raised`, `invalid`, `failed`.
        value: JSON that the handler gets.
        degraded: The value came from a fallback.
        cause: Why the fallback was used.
        at_s: Seconds since the epoch to which the handler's clock is set; never goes back.
        asked: Rolling hash of the requests that the handler had made before this was applied.
    """

    step: int
    kind: str
    name: str
    status: str
    at_s: float
    asked: int
    value: bytes | None = None
    error_type: str = ""
    error_message: str = ""
    degraded: bool = False
    cause: str = ""
    attempts: int = 1
    elapsed_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The live journal of an invocation; keyed by its ID, rewritten by each transaction that touched it.

    Attributes:
        invocation: The encoded `Invocation`; empty when it is large and stands in chunk -1.
        phase: `queued` (in the mailbox), `running`, `parked`.
        version: Version of the handler that it started with.
        accepted: Order of acceptance within the partition; orders mailboxes after a restore.
        chunks: Number of closed chunks that precede `completions`.
        completions: Encoded `Completion`s of the open chunk, in order.
        asked: Rolling hash of all requests made until now.
        wake_at_s: When the engine must look at it again without an event; 0 for never.
        reason: Why it is parked.
        kept: Encoded `KeptStep`s: at-most-once steps of earlier incarnations.
        signals: Encoded `Signal`s that came before somebody waited for them.
        snapshot: For readers that run beside others: encoded `StateDelta`s as they were at the start.
        working: A tool or LLM step is out; counts towards the shard's cap.
        held: Encoded records that came while it was parked, to be applied when it goes on.
        patches: IDs of `ctx.patched` that this invocation runs with.
    """

    invocation: bytes
    incarnation: int
    phase: str
    version: str
    accepted: int
    started_at_ms: int = 0
    chunks: int = 0
    completions: tuple[bytes, ...] = ()
    asked: int = 0
    wake_at_s: float = 0.0
    reason: str = ""
    kept: tuple[bytes, ...] = ()
    signals: tuple[bytes, ...] = ()
    snapshot: tuple[bytes, ...] | None = None
    working: bool = False
    held: tuple[bytes, ...] = ()
    patches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptStep:
    """An at-most-once step of an earlier incarnation: a restarted handler gets this outcome, never a second call.

    Attributes:
        outcome: The encoded `Completion` that the earlier incarnation was given, or the `ToolResult` that came after
            it; None while the call is still out.
    """

    incarnation: int
    step: int
    tool: str
    arguments: bytes
    outcome: bytes | None = None


@dataclass(frozen=True, slots=True)
class JournalChunk:
    """Completions that no longer fit into the entry; never rewritten, tombstoned when the invocation ends."""

    invocation: str
    incarnation: int
    number: int
    completions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Early:
    """Signals and cancels that came before their invocation; kept for a while, taken over when it comes."""

    records: tuple[bytes, ...]
    first_at_ms: int


@dataclass(frozen=True, slots=True)
class Marker:
    """What stays of a finished invocation for the deduplication window.

    Attributes:
        input_digest: Tells the same invocation from another one that reuses its ID.
        result: The encoded `Result`.
    """

    input_digest: bytes
    result: bytes
    finished_at_ms: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a shard goes on after a restore; the last record of each of its transactions.

    Attributes:
        positions: Next offset for each input topic.
        epoch: Grows with each owner.
        sequence: Last sequence number given to a state write.
        accepted: Last acceptance number given to an invocation.
        restarts: Owners since the last one that made progress; more than one means that something kills them.
        suspects: Invocation ID to the times that its events were begun alone and not finished; how the invocation
            that kills its process is found.
        paused: Agent names that an operator has paused.
    """

    epoch: int
    sequence: int
    accepted: int
    positions: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    suspects: dict[str, int] = field(default_factory=dict)
    paused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AppliedWrites:
    """Writes to shared records that a shard has applied lately: the same request changes nothing again.

    Attributes:
        number: Of this portion; the journal holds so many portions, and each new one replaces the oldest.
        requests: Digests that name the requests.
        answers: For each of them the encoded `Answer` that its client got; empty for an agent's.
    """

    number: int
    requests: tuple[bytes, ...] = ()
    answers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Deferred:
    """A request to read or write state that must be read from the store first; applied once it is here.

    Attributes:
        owner: Whose state: an agent ID, or that of a shared record.
        record: The request as it came, encoded.
    """

    owner: str
    record: bytes


@dataclass(frozen=True, slots=True)
class FlushMarks:
    """How far the sink had come at some moments: what was in the store long enough ago may leave the log.

    Attributes:
        times_ms: Milliseconds since the epoch, in order.
        offsets: For each of them the sink's committed position on the shard's `state-deltas`.
    """

    times_ms: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EvictedPage:
    """One page of the filter of agents whose state may have left the log.

    Attributes:
        bits: Of a Bloom filter; a bit once set stays set.
    """

    generation: int
    number: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class EvictedSummary:
    """What the pages of the filter must add up to; a page that is missing makes the filter say "perhaps" to everything.

    Attributes:
        agents: Agents that were added, for each generation.
        pages: Pages that were written, for each generation.
    """

    agents: tuple[int, ...]
    pages: tuple[int, ...]
