"""Lag and rates of a lane, from samples of positions and end offsets.

Pure: the control plane samples the broker. The age of the oldest unread record comes from the samples themselves: it
was written after the last sample whose end it was beyond. That is exact to one sampling interval and needs no read; a
record from before the first sample counts as old as that sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from streams.backpressure.retry_after import PartitionLag

_SAMPLES_KEPT = 7_200


class _Meter:
    """One partition: smoothed rates and the history of its end."""

    __slots__ = ("arrival", "drain", "end", "ends", "position")

    def __init__(self, position: int, end: int, at_s: float) -> None:
        self.position = position
        self.end = end
        self.arrival = 0.0
        self.drain = 0.0
        self.ends: deque[tuple[float, int]] = deque([(at_s, end)], maxlen=_SAMPLES_KEPT)

    def sample(self, position: int, end: int, at_s: float, passed_s: float, weight: float) -> None:
        # Both may go back: a new owner restores an older position, a namespace is created anew.
        arrived, drained = max(0, end - self.end), max(0, position - self.position)
        self.arrival += weight * (arrived / passed_s - self.arrival)
        self.drain += weight * (drained / passed_s - self.drain)
        self.position, self.end = position, end
        self.ends.append((at_s, end))
        while len(self.ends) > 1 and self.ends[1][1] <= position:
            self.ends.popleft()

    @property
    def records(self) -> int:
        return max(0, self.end - self.position)

    def age_s(self, now_s: float) -> float:
        return now_s - self.ends[0][0] if self.records else 0.0


class LagMeter:
    """Lag of one lane over its partitions.

    Args:
        half_life_s: Rates are averages in which a sample weighs half after so long.
    """

    def __init__(self, *, half_life_s: float = 2.0) -> None:
        if half_life_s <= 0:
            raise ValueError(f"half_life_s must be positive, got {half_life_s}")
        self._half_life_s = half_life_s
        self._meters: dict[int, _Meter] = {}
        self._at_s: float | None = None

    def sample(self, at_s: float, positions: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Take a sample of every partition in both mappings.

        Args:
            at_s: Seconds of a clock that does not go back; a sample that is not later than the last is ignored.
            positions: Offset of the next record to be processed.
            ends: Offset after the last record.
        """
        passed_s = at_s - self._at_s if self._at_s is not None else 0.0
        if self._at_s is not None and passed_s <= 0:
            return
        weight = 1 - 0.5 ** (passed_s / self._half_life_s)
        for number in positions.keys() & ends.keys():
            meter = self._meters.get(number)
            if meter is None:
                self._meters[number] = _Meter(positions[number], ends[number], at_s)
            else:
                meter.sample(positions[number], ends[number], at_s, passed_s, weight)
        self._at_s = at_s

    def partitions(self, *, admitted: float = 1.0) -> tuple[PartitionLag, ...]:
        """Return lag and rates of each partition.

        Args:
            admitted: Share of the arrivals that is still let in while the signal stands; 0 when the lane is closed.
        """
        return tuple(PartitionLag(m.records, m.arrival * admitted, m.drain) for m in self._meters.values())

    @property
    def records(self) -> int:
        """Backlog over all partitions."""
        return sum(meter.records for meter in self._meters.values())

    @property
    def age_s(self) -> float:
        """Age of the oldest unread record, 0 when everything is read."""
        return max((meter.age_s(self._at_s or 0.0) for meter in self._meters.values()), default=0.0)

    @property
    def arrival_per_s(self) -> float:
        """Records written per second, smoothed."""
        return sum(meter.arrival for meter in self._meters.values())

    @property
    def drain_per_s(self) -> float:
        """Records processed per second, smoothed."""
        return sum(meter.drain for meter in self._meters.values())
