"""How a lane is entered again that was closed: slowly at first, and twice as fast after each moment.

Everybody who was sent away comes back when the lane opens, in all processes at once, and would close it again before
the control plane has seen the first of them. So each process begins with a part of what the lane drains and doubles its
pace until nobody is held up (TCP's slow start, RFC 5681). Pure.
"""

from __future__ import annotations

import math

# After so many doublings there is nothing left to hold up.
_MOST_DOUBLINGS = 40


class Ramp:
    """Paces the first admissions after *start_s*.

    Args:
        start_per_s: Admissions per second at the beginning.
        doubling_s: Seconds after which it is twice as many.
        start_s: Seconds of a clock that does not go back.
    """

    def __init__(self, start_per_s: float, doubling_s: float, start_s: float) -> None:
        self._scale = start_per_s * doubling_s / math.log(2)
        self._doubling_s = doubling_s
        self._start_s = start_s
        self._taken = 0

    def take(self, now_s: float) -> float:
        """Return 0.0 and count an admission if there is room for it, else the seconds until there is."""
        if self._taken < self._room(now_s):
            self._taken += 1
            return 0.0
        return max(0.001, self._start_s + self._doubling_s * math.log2(1 + self._taken / self._scale) - now_s)

    def over(self, now_s: float) -> bool:
        """Tell whether it holds up nobody any more: fewer came than there was room for two doublings ago."""
        ago_s = now_s - 2 * self._doubling_s
        return now_s - self._start_s > _MOST_DOUBLINGS * self._doubling_s or (
            ago_s > self._start_s and self._taken < self._room(ago_s)
        )

    def _room(self, now_s: float) -> float:
        doublings = min((now_s - self._start_s) / self._doubling_s, _MOST_DOUBLINGS)
        room: float = 1 + self._scale * (2.0 ** max(doublings, 0.0) - 1)
        return room
