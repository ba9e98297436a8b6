"""The latest N outcomes of a dependency, counted: how many failed, how many were slow. Constant time per outcome."""

from __future__ import annotations

OK = 0
FAILED = 1
SLOW = 2


class CountWindow:
    """A ring of outcome codes (`OK`, `FAILED`, `SLOW`, `FAILED | SLOW`) with running sums."""

    __slots__ = ("_next", "_ring", "_size", "calls", "failures", "slow")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window of {size} calls can hold nothing; give at least 1")
        self._size = size
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._ring = bytearray(self._size)
        self._next = 0
        self.calls = 0
        self.failures = 0
        self.slow = 0

    def add(self, code: int) -> None:
        """Count one outcome; the oldest leaves a full window."""
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

    def add_many(self, calls: int, failures: int, slow: int) -> None:
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
            self.add(code)

    @property
    def failure_rate(self) -> float:
        """Share of failed calls, 0 when empty."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0 when empty."""
        return self.slow / self.calls if self.calls else 0.0


def _scaled(count: int, seats: int, calls: int) -> int:
    return min(seats, max(0, round(count * seats / calls)))


def _falls_on(seat: int, count: int, seats: int) -> int:
    """Tell (1 or 0) whether one of *count* evenly spread marks lies on *seat*."""
    return (seat + 1) * count // seats - seat * count // seats
