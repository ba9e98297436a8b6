"""Lag and rates of one partition, from what is read about it again and again.

Pure: `streams.backpressure.monitor` asks the broker. Backlog is what is unread and what was read and is still open. The
drain rate follows from positions and open work as their owner reported them, over the time between two reports; an
owner that reports nothing for `SILENT_S` drains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from streams.backpressure.rates import Capacity, Rate
from streams.records.load import Load

SILENT_S = 3.0
"""Seconds without a report after which a consumer counts as standing still."""


class Reading(NamedTuple):
    """What was found of a partition at one moment.

    Attributes:
        position: Committed by its consumer, or the log's beginning where nothing was.
        end: Offset after the last record, asked for after the position.
        load: What the consumer noted beside the position; None where it did not.
        oldest_ms: Timestamp of the first unread record, None where there is none or it is not known.
    """

    position: int
    end: int
    load: Load | None = None
    oldest_ms: int | None = None

    @property
    def read(self) -> int:
        """Offset up to which was read."""
        return max(self.position, self.load.read) if self.load is not None else self.position

    @property
    def unread(self) -> int:
        """Records that were not read yet."""
        return max(0, self.end - self.read)

    @property
    def backlog(self) -> int:
        """Unread, under way, and waiting in mailboxes."""
        return self.unread + (self.load.open if self.load is not None else 0)


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Lag of one partition.

    Attributes:
        unread: Records behind the position.
        load: Of what was read: under way, queued, resting, parked.
        lag_s: Age of the oldest unread record in seconds, 0 when everything is read.
        arrival_per_s, drain_per_s: Records written and finished per second, smoothed.
        capacity_per_s: Records per second that its consumer finishes when it is busy; None while it never was.
        silent_s: Seconds for which its consumer has not reported.
    """

    number: int
    unread: int
    load: Load
    lag_s: float
    arrival_per_s: float
    drain_per_s: float
    capacity_per_s: float | None
    silent_s: float

    @property
    def backlog(self) -> int:
        """Unread, under way, and waiting in mailboxes."""
        return self.unread + self.load.open

    @property
    def speed_per_s(self) -> float:
        """What it is expected to drain at."""
        return self.drain_per_s if self.capacity_per_s is None else self.capacity_per_s


class PartitionMeter:
    """Takes readings of one partition.

    Args:
        half_life_s: Rates are averages in which a reading weighs half after so long.
        busy: Backlog from which the consumer counts as busy: never idle between two readings that both show so much.
    """

    def __init__(self, number: int, *, half_life_s: float, busy: float) -> None:
        self._number = number
        self._busy = busy
        self._arrival = Rate(half_life_s)
        self._drain = Rate(half_life_s)
        self._capacity = Capacity(half_life_s)
        self._last: Reading | None = None
        self._reported: Reading | None = None
        self._at_s = 0.0
        self._reported_s = 0.0
        self._idle_until_s: float | None = None

    def sample(self, reading: Reading, at_s: float) -> None:
        """Take a reading; one that is not later than the last is ignored.

        Args:
            at_s: Seconds of a clock that does not go back.
        """
        last, passed_s = self._last, at_s - self._at_s
        if last is None or self._reported is None:
            self._reported, self._reported_s = reading, at_s
        elif passed_s <= 0:
            return
        else:
            self._arrival.add(max(0, reading.end - last.end), passed_s)
            self._finish(self._reported, last, reading, at_s, passed_s)
        self._last, self._at_s = reading, at_s

    def _finish(self, reported: Reading, last: Reading, reading: Reading, at_s: float, passed_s: float) -> None:
        busy = min(last.backlog, reading.backlog) >= self._busy
        if (between_s := _between(reported, reading, at_s - self._reported_s)) > 0:
            # Both may go back: a new owner restores an older position, a namespace is created anew.
            opened = _open(reading) - _open(reported)
            finished = max(0, reading.read - reported.read - opened)
            passed_s = between_s if self._idle_until_s is None else at_s - self._idle_until_s
            self._reported, self._reported_s, self._idle_until_s = reading, at_s, None
        elif (since_s := at_s - self._reported_s) > SILENT_S:
            finished = 0
            passed_s = since_s if self._idle_until_s is None else passed_s
            self._idle_until_s = at_s
        else:
            return
        self._drain.add(finished, passed_s)
        if busy:
            self._capacity.add(finished, passed_s)

    def lag(self, now_ms: int) -> PartitionLag:
        """Return the lag as of the last reading.

        Args:
            now_ms: Milliseconds since the epoch.

        Raises:
            ValueError: There was no reading yet.
        """
        reading = self._last
        if reading is None:
            raise ValueError(f"partition {self._number} was not sampled yet")
        age_ms = now_ms - reading.oldest_ms if reading.unread and reading.oldest_ms is not None else 0
        return PartitionLag(
            self._number,
            reading.unread,
            reading.load or Load(now_ms),
            max(0.0, age_ms / 1000),
            self._arrival.per_s,
            self._drain.per_s,
            self._capacity.per_s,
            self._at_s - self._reported_s,
        )


def _between(before: Reading, after: Reading, passed_s: float) -> float:
    """Return the seconds between two reports; 0 where *after* is the same one."""
    if before.load is not None and after.load is not None:
        return max(0.0, (after.load.at_ms - before.load.at_ms) / 1000)
    return passed_s if after.load is not None or after.read != before.read else 0.0


def _open(reading: Reading) -> int:
    return reading.load.open if reading.load is not None else 0
