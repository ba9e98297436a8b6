"""How high a bucket stood since a take: what bounds a refund, so that giving tokens back never overfills the past.

A token bucket that would have been full meanwhile had its request been charged less has lost that refill for good; the
provider's bucket lost it too. Handing the difference back in full would let two bursts through where the provider
allows one. The bound is the queueing identity for a reflected process (Asmussen, Applied Probability and Queues, ch.
III.6): lowering an earlier charge by *r* raises the level now by `min(r, capacity - highest level since)`.

Kept as the suffix maxima of the levels just before each take, so a handful of entries in steady state.
"""

from __future__ import annotations

import math
from bisect import bisect_right

ENTRIES = 128
"""Steps to which a long drain is thinned out. Rounding is upwards: refunds get smaller by at most one such step."""


class Peaks:
    """Suffix maxima of a bucket's level, by the number of the take that they preceded."""

    __slots__ = ("_levels", "_marks")

    def __init__(self) -> None:
        self._marks: list[int] = []
        self._levels: list[float] = []

    def record(self, mark: int, level: float) -> None:
        """Note that the level was *level* just before take number *mark*; marks only grow."""
        marks, levels = self._marks, self._levels
        while levels and levels[-1] <= level:
            levels.pop()
            marks.pop()
        levels.append(level)
        marks.append(mark)
        if len(levels) > 2 * ENTRIES:
            self._thin_out()

    def since(self, mark: int) -> float:
        """Return the highest level noted after take *mark*; minus infinity if there was none."""
        i = bisect_right(self._marks, mark)
        return self._levels[i] if i < len(self._levels) else -math.inf

    def lift(self, mark: int, amount: float) -> None:
        """Raise every level after take *mark* by *amount*: the history as it would have been with a smaller take."""
        marks, levels = self._marks, self._levels
        i = bisect_right(marks, mark)
        if i == len(levels):
            return
        for j in range(i, len(levels)):
            levels[j] += amount
        first = i
        while first > 0 and levels[first - 1] <= levels[i]:
            first -= 1
        del levels[first:i], marks[first:i]

    def _thin_out(self) -> None:
        step = (self._levels[0] - self._levels[-1]) / ENTRIES
        marks, levels = [self._marks[0]], [self._levels[0]]
        for mark, level in zip(self._marks[1:], self._levels[1:], strict=True):
            if levels[-1] - level < step:
                marks[-1] = mark  # the higher level now stands for this take too
            else:
                marks.append(mark)
                levels.append(level)
        self._marks, self._levels = marks, levels
