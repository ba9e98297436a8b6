"""The outcomes of a dependency that are judged: the latest N calls, or those of the latest seconds.

Both count in constant time and memory. Codes are `OK`, `FAILED`, `SLOW`, or `FAILED | SLOW`.
"""

from __future__ import annotations

from streams.breakers.policy import BreakerPolicy

OK = 0
FAILED = 1
SLOW = 2

BUCKETS = 20
"""Of a window by time: an outcome leaves it after `window_s`, at most one twentieth of that early."""


class Sums:
    """Outcomes, counted."""

    __slots__ = ("calls", "failures", "slow")

    def __init__(self) -> None:
        self.calls = 0
        self.failures = 0
        self.slow = 0

    @property
    def failure_rate(self) -> float:
        """Share of failed calls, 0 when empty."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0 when empty."""
        return self.slow / self.calls if self.calls else 0.0


class CountWindow(Sums):
    """The latest *size* calls: a ring of outcome codes with running sums."""

    __slots__ = ("_next", "_ring", "_size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window of {size} calls can hold nothing; give at least 1")
        super().__init__()
        self._size = size
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._ring = bytearray(self._size)
        self._next = 0
        self.calls = self.failures = self.slow = 0

    def add(self, code: int, now_ms: int) -> bool:
        """Count one outcome; the oldest leaves a full window.

        Returns:
            Whether a success can have raised a rate, because others have left. Never here: it takes one place.
        """
        at = self._next
        if self.calls == self._size:
            if old := self._ring[at]:
                self.failures -= old & FAILED
                self.slow -= old >> 1
        else:
            self.calls += 1
        self._ring[at] = code
        if code:
            self.failures += code & FAILED
            self.slow += code >> 1
        at += 1
        self._next = at if at < self._size else 0
        return False

    def add_many(self, calls: int, failures: int, slow: int, now_ms: int) -> None:
        """Count a reporter's sums, spread evenly because their order is not known.

        More calls than the window holds are scaled down, since they would fill it with the same rates.
        """
        if calls <= 0:
            return
        seats = min(calls, self._size)
        failed = _scaled(failures, seats, calls)
        slowed = _scaled(slow, seats, calls)
        for seat in range(seats):
            code = FAILED * _falls_on(seat, failed, seats) | SLOW * _falls_on(seat, slowed, seats)
            self.add(code, now_ms)


class TimeWindow(Sums):
    """The calls of the latest *span_s* seconds: a ring of sums, one for each twentieth of that.

    A clock that goes back counts into the newest sums, so that nothing is counted into the future.
    """

    __slots__ = ("_at", "_bucket_ms", "_ring")

    def __init__(self, span_s: float) -> None:
        if span_s <= 0:
            raise ValueError(f"a window of {span_s:g} s can hold nothing; give more than 0")
        super().__init__()
        self._bucket_ms = max(1, round(span_s * 1000 / BUCKETS))
        self._at = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._ring = [[0, 0, 0] for _ in range(BUCKETS)]
        self.calls = self.failures = self.slow = 0

    def add(self, code: int, now_ms: int) -> bool:
        """Count one outcome; those that are too old leave.

        Returns:
            Whether others have left, so that even a success can have raised a rate.
        """
        at, left = now_ms // self._bucket_ms, False
        if at > self._at:
            left = self._move_to(at)
        sums = self._ring[self._at % BUCKETS]
        sums[0] += 1
        self.calls += 1
        if code:
            sums[1] += code & FAILED
            sums[2] += code >> 1
            self.failures += code & FAILED
            self.slow += code >> 1
        return left

    def add_many(self, calls: int, failures: int, slow: int, now_ms: int) -> None:
        """Count a reporter's sums as of now."""
        if calls <= 0:
            return
        if (at := now_ms // self._bucket_ms) > self._at:
            self._move_to(at)
        failed, slowed = min(max(failures, 0), calls), min(max(slow, 0), calls)
        sums = self._ring[self._at % BUCKETS]
        for place, count in enumerate((calls, failed, slowed)):
            sums[place] += count
        self.calls += calls
        self.failures += failed
        self.slow += slowed

    def _move_to(self, at: int) -> bool:
        """Make room for the bucket *at*; return whether calls have left by that."""
        before = self.calls
        for number in range(max(self._at + 1, at - BUCKETS + 1), at + 1):
            calls, failures, slow = self._ring[number % BUCKETS]
            self.calls -= calls
            self.failures -= failures
            self.slow -= slow
            self._ring[number % BUCKETS] = [0, 0, 0]
        self._at = at
        return self.calls != before


Window = CountWindow | TimeWindow


def window_of(policy: BreakerPolicy) -> Window:
    """Return an empty window of the kind that *policy* judges by."""
    return CountWindow(policy.window_calls) if policy.window_s is None else TimeWindow(policy.window_s)


def _scaled(count: int, seats: int, calls: int) -> int:
    return min(seats, max(0, round(count * seats / calls)))


def _falls_on(seat: int, count: int, seats: int) -> int:
    """Tell (1 or 0) whether one of *count* evenly spread marks lies on *seat*."""
    return (seat + 1) * count // seats - seat * count // seats
