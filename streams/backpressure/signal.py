"""The signal that the control plane publishes about a lane, from its lag and level. Pure."""

from __future__ import annotations

from streams.backpressure.lag import LagMeter
from streams.backpressure.policy import BackpressurePolicy
from streams.backpressure.retry_after import retry_after
from streams.records.control import BackpressureSignal, Level

_ADMITTED = {"open": 1.0, "slow": 1.0, "closed": 0.0}


def signal_of(lane: str, level: Level, meter: LagMeter, now_ms: int, policy: BackpressurePolicy) -> BackpressureSignal:
    """Return the signal for *lane*; an open lane asks nobody to wait."""
    partitions = meter.partitions(admitted=_ADMITTED[level])
    wait_s = 0.0
    if level != "open":
        # The target is the lane's; each partition has its share of it.
        share = policy.target_records / max(1, len(partitions))
        wait_s = retry_after(partitions, target=share, floor_s=policy.floor_s, ceiling_s=policy.ceiling_s)
    return BackpressureSignal(
        lane,
        level,
        max(wait_s, policy.floor_s) if level != "open" else 0.0,
        meter.records,
        meter.age_s,
        meter.arrival_per_s,
        meter.drain_per_s,
        now_ms,
        policy.ttl_s,
    )
