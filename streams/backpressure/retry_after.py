"""How long a caller should wait before it publishes again.

Pure: lag samples come in, a duration comes out. Sampling the broker and publishing the signal are the controller's
work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Lag of one partition, with the rates that change it.

    Attributes:
        records: Backlog: records not yet read, plus those read and still open.
        arrival: Records per second that will still be admitted while the signal stands; 0 when the lane is closed.
        drain: Records finished per second.
    """

    records: float
    arrival: float
    drain: float


def retry_after(
    partitions: Iterable[PartitionLag], *, target: float, floor_s: float = 0.1, ceiling_s: float = 60.0
) -> float:
    """Return the seconds until the slowest partition is back at *target* lag.

    A partition that grows as fast as it drains never gets there; it answers *ceiling_s*. Callers add jitter, so that
    they do not come back together.

    Args:
        partitions: One entry for each partition of the lane.
        target: Lag in records at which producers are welcome again.
        floor_s: Shortest wait that is worth telling a caller.
        ceiling_s: Longest wait that is believed; beyond it the rates will have changed.

    Raises:
        ValueError: *target* is negative, or *floor_s* exceeds *ceiling_s*.

    Returns:
        0.0 when every partition is at or below *target*, else a duration between *floor_s* and *ceiling_s*.
    """
    if target < 0:
        raise ValueError(f"target lag must not be negative, got {target}")
    if floor_s > ceiling_s:
        raise ValueError(f"floor_s {floor_s} exceeds ceiling_s {ceiling_s}")
    slowest = max((_drain_time(p, target, ceiling_s) for p in partitions), default=0.0)
    return min(max(slowest, floor_s), ceiling_s) if slowest else 0.0


def _drain_time(lag: PartitionLag, target: float, ceiling_s: float) -> float:
    excess = lag.records - target
    if excess <= 0:
        return 0.0
    speed = lag.drain - lag.arrival
    return excess / speed if speed > 0 else ceiling_s
