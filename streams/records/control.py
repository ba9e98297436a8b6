"""What the fleet shares about itself: breakers, outcomes, backpressure, limits, usage, pools, dead letters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

BreakerPhase = Literal["closed", "open", "half-open", "forced-open", "forced-closed", "metrics-only"]
Level = Literal["open", "slow", "closed"]


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The fleet's view of one dependency; written by the control plane alone.

    Attributes:
        generation: (writer epoch, number); outcomes of an older generation change nothing.
        until_ms: With `open`, when it becomes half-open; callers treat it as expired after that plus a grace.
        probe_holder: With `half-open`, who may send the next call.
        probe_expires_ms: With `half-open`, when the lease, or the probe that is under way, is given up.
        probe_under_way: Generation, `epoch.number`, of the lease whose call is out; nobody may send another.
        changed_by: `machine`, or the operator that forced it.
        orders: IDs of the operators' orders that were followed last.
    """

    dependency: str
    phase: str
    epoch: int
    number: int
    reason: str
    since_ms: int
    until_ms: int = 0
    failure_rate: float = 0.0
    slow_rate: float = 0.0
    calls: int = 0
    openings: int = 0
    probe_holder: str = ""
    probe_expires_ms: int = 0
    changed_by: str = "machine"
    probe_under_way: str = ""
    orders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutcomeDigest:
    """What one reporter saw of one dependency since its last digest; deduplicated by reporter and sequence.

    Attributes:
        generation: Breaker generation, `epoch.number`, that the calls were made under.
        errors: Class name to count.
        short_circuited: Calls that an open breaker answered: demand for a probe.
        probe: `begun`, `ok`, `failed` or `void` (it ended without an outcome) when the digest reports a probe.
        probe_until_ms: With `begun`, when the probe's call ends at the latest.
        retry_after_ms: Longest time for which the dependency asked to be left alone.
    """

    reporter: str
    sequence: int
    dependency: str
    from_ms: int
    to_ms: int
    calls: int
    failures: int
    slow: int
    short_circuited: int = 0
    generation: str = ""
    probe: str = ""
    phase: str = "closed"
    errors: dict[str, int] = field(default_factory=dict)
    probe_until_ms: int = 0
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class BackpressureSignal:
    """What producers of a lane should do.

    Attributes:
        level: `open`, `slow` (low priorities wait) or `closed`.
        retry_after_s: Seconds until the backlog is expected to be at its target.
        lag_records: Backlog, unread and open, over all partitions.
        lag_s: Age of the oldest unread record.
        arrival_per_s: Invocations that arrive per second, smoothed.
        drain_per_s: Invocations that are finished per second when there are enough of them.
        at_ms: When it was decided, in ms since the epoch; of two signals the younger one holds.
        ttl_s: Seconds after which the signal says nothing any more.
        reason: With `slow` and `closed`, which partition of what is fullest, in words.
    """

    lane: str
    level: str
    retry_after_s: float
    lag_records: int
    lag_s: float
    arrival_per_s: float
    drain_per_s: float
    at_ms: int
    ttl_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A live change to the limits of a pool or key, or to the budget of a tenant, with who made it and why.

    None leaves the configured value. The latest record of a subject holds; a tombstone takes the change back.

    Attributes:
        subject: Name of a pool, of one of its keys as `pool/number`, or `tenant:` and the name of a tenant.
        requests_per_minute: Of each key of the pool, as are all limits.
        budget_tokens: What the tenant may use in a window of the usage, input and output together.
        budget_cost: What the tenant may spend in it, in the currency of the price table.
    """

    subject: str
    changed_by: str
    reason: str
    at_ms: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    concurrency: int | None = None
    budget_tokens: int | None = None
    budget_cost: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one tenant used of one model in one window, as far as one shard's results tell.

    Summed over *shard* it is the tenant's usage. Of several records with the same key the one that goes further holds.

    Attributes:
        model: Name of the model as the provider knows it.
        window_start_ms: Milliseconds since the epoch; windows are hours, days or months of UTC.
        requests: Calls that were answered.
        cost: In the currency of the price table.
        shard: Partition of `llm-results` whose records are summed.
        through: Offset there up to which they are; the sums are exact for what is before it.
    """

    tenant: str
    model: str
    window_start_ms: int
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float
    shard: int = 0
    through: int = 0


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What one dispatcher holds, sends and has left of a pool; written every moment, the latest of a reporter holds.

    Attributes:
        status: JSON object of the pool's status: keys with their buckets, requests held, oldest, expected wait.
        ttl_s: Seconds after which the reporter is gone if nothing newer came.
    """

    pool: str
    reporter: str
    at_ms: int
    ttl_s: float
    status: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed, as it was, with where it came from and why it is here."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    error_type: str
    reason: str
    at_ms: int
    set_aside_by: str
    headers: dict[str, bytes] = field(default_factory=dict)
