"""How many retries a tool may have: a part of its calls, so that retries never multiply the load of a dependency that
is ailing. Pure.

As in Finagle's RetryBudget: each call earns a fraction of a retry, a trickle comes with time, and what is not used is
kept up to a bound.
"""

from __future__ import annotations

MOST_KEPT = 100.0
AT_FIRST = 10.0


class RetryBudget:
    """The budget of one tool in one process.

    Args:
        ratio: Retries that a call earns: 0.2 for one with every fifth call.
        per_s: Retries a second whatever the number of calls, so that a tool with few of them has some too.
        now: The clock's time, in seconds.

    Attributes:
        denied: Retries that were not made for want of budget.
    """

    __slots__ = ("_at", "_level", "_per_s", "_ratio", "denied")

    def __init__(self, ratio: float, per_s: float, now: float) -> None:
        self._ratio = ratio
        self._per_s = per_s
        self._level = AT_FIRST
        self._at = now
        self.denied = 0

    def earn(self) -> None:
        """Note a call."""
        self._level = min(MOST_KEPT, self._level + self._ratio)

    def spend(self, now: float) -> bool:
        """Take one retry or hedge, if it is there."""
        elapsed, self._at = max(0.0, now - self._at), max(self._at, now)
        self._level = min(MOST_KEPT, self._level + elapsed * self._per_s)
        if self._level < 1.0:
            self.denied += 1
            return False
        self._level -= 1.0
        return True
