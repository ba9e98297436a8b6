"""What the engine is told and what it wants done: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streams.llm.prices import Price
from streams.records.headers import Headers
from streams.records.invocations import Result
from streams.shards.measures import ShardMeasures


class Event(NamedTuple):
    """A record that has arrived for the shard.

    Attributes:
        kind: Kind of topic that it came from.
        record: Decoded.
        raw: Value as it was read, of an invocation: it is journaled as it is. Empty where it was read otherwise.
    """

    kind: str
    record: Any
    raw: bytes = b""


class Write(NamedTuple):
    """A record that the transaction must contain.

    Attributes:
        kind: Kind of topic.
        key: Record key.
        value: None for a tombstone.
        partition: Partition to write to.
    """

    kind: str
    key: bytes
    value: bytes | None
    partition: int
    headers: Headers = ()
    lane: str = ""


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """Bounds of one shard.

    Attributes:
        max_working: Invocations with a tool or LLM step out, beyond which `invocations` is paused.
        max_live: Invocations kept, waiting ones included, beyond which `invocations` is paused.
        max_live_bytes: Bytes of their journals, likewise.
        max_mailbox: Invocations that may wait for one agent instance; beyond it the answer is `deferred`.
        max_hot: Handlers kept in memory between completions; the others are run again when something comes.
        chunk_bytes: Size at which a journal record is closed and continued under the next chunk key.
        dedup_s: Seconds for which a finished invocation is remembered.
        dedup_count: Finished invocations that are remembered.
        dedup_bytes: Bytes of their markers, which hold their results.
        max_depth: Depth of child invocations.
        max_children: Children that one invocation may be waiting for.
        max_signals: Signals that wait for an invocation to take them.
        max_early: Invocations for which signals are kept that have come before them.
        early_s: Seconds for which they are kept.
        max_payload_bytes: Inputs, results and step values.
        defer_s: What a `deferred` answer tells the caller to wait.
        prices: What a model call may cost at most, by pool; for budgets of money.
    """

    max_working: int = 1_000
    max_live: int = 100_000
    max_live_bytes: int = 256 * 1024 * 1024
    max_mailbox: int = 1_000
    max_hot: int = 5_000
    chunk_bytes: int = 8_192
    dedup_s: float = 86_400.0
    dedup_count: int = 50_000
    dedup_bytes: int = 64 * 1024 * 1024
    max_depth: int = 16
    max_children: int = 1_000
    max_signals: int = 1_000
    max_early: int = 10_000
    early_s: float = 3_600.0
    max_payload_bytes: int = 1_000_000
    defer_s: float = 5.0
    prices: Mapping[str, Price] = field(default_factory=dict)


@dataclass(slots=True)
class Counters:
    """What a shard has done since it started; for metrics and status.

    Attributes:
        measures: What all shards of the process measure together.
    """

    accepted: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    degraded: int = 0
    repeated: int = 0
    conflicts: int = 0
    deferred: int = 0
    forwarded: int = 0
    replayed: int = 0
    short_circuited: int = 0
    ignored: int = 0
    shared_conflicts: dict[str, int] = field(default_factory=dict)
    measures: ShardMeasures = field(default_factory=ShardMeasures)

    def end(self, result: Result) -> None:
        """Count an invocation that has ended; a result that is only sent again ended before."""
        if result.repeated:
            return
        self.finished[result.status] = self.finished.get(result.status, 0) + 1
        self.degraded += result.degraded
        self.measures.end(result)
