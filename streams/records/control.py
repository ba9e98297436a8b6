"""What the fleet shares about itself: breakers, outcomes, backpressure, limits, usage, and what was set aside."""

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
        ttl_s: Seconds after which the signal says nothing any more.
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


@dataclass(frozen=True, slots=True)
class Limit:
    """A live change to the limits of a pool's key, or of a tenant. None leaves the configured value."""

    subject: str
    key: str
    changed_by: str
    reason: str
    at_ms: int
    requests_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums for one tenant and model since the start of the window."""

    tenant: str
    model: str
    window_start_ms: int
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float


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
