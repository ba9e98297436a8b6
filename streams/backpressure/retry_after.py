"""How long a caller should wait before it publishes again.

`max over partitions (backlog - target) / (drain - arrival)`, where arrival is what will still be admitted while the
signal stands. Pure: what is known of the partitions comes in, a duration comes out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draining:
    """A partition on its way to its target.

    Attributes:
        excess: Records of its backlog above the target; negative when it is below.
        arrival: Records per second that will still be admitted while the signal stands; 0 when the lane is closed.
        drain: Records finished per second.
    """

    excess: float
    arrival: float
    drain: float


def retry_after(partitions: Iterable[Draining], *, floor_s: float = 0.1, ceiling_s: float = 60.0) -> float:
    """Return the seconds until the slowest partition is at its target.

    A partition that grows as fast as it drains never gets there; it answers *ceiling_s*. Callers add jitter, so that
    they do not come back together.

    Args:
        floor_s: Shortest wait that is worth telling a caller.
        ceiling_s: Longest wait that is believed; beyond it the rates will have changed.

    Raises:
        ValueError: *floor_s* exceeds *ceiling_s*.

    Returns:
        0.0 when every partition is at or below its target, else a duration between *floor_s* and *ceiling_s*.
    """
    if floor_s > ceiling_s:
        raise ValueError(f"floor_s {floor_s} exceeds ceiling_s {ceiling_s}")
    slowest = max((_drain_time(p, ceiling_s) for p in partitions), default=0.0)
    return min(max(slowest, floor_s), ceiling_s) if slowest > 0 else 0.0


def _drain_time(partition: Draining, ceiling_s: float) -> float:
    if partition.excess <= 0:
        return 0.0
    speed = partition.drain - partition.arrival
    return partition.excess / speed if speed > 0 else ceiling_s


class SmoothedWait:
    """Smooths a wait that counts down: what is averaged is the moment at which it ends.

    Args:
        half_life_s: An estimate weighs half after so long.
    """

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._due_s: float | None = None
        self._at_s = 0.0

    def take(self, wait_s: float, now_s: float) -> float:
        """Take the estimate made at *now_s*; return the smoothed one."""
        due_s = now_s + wait_s
        if self._due_s is not None:
            weight = 1 - 0.5 ** ((now_s - self._at_s) / self._half_life_s)
            due_s = self._due_s + weight * (due_s - self._due_s)
        self._due_s, self._at_s = due_s, now_s
        return max(0.0, due_s - now_s)

    def forget(self) -> None:
        """Start anew with the next estimate."""
        self._due_s = None
