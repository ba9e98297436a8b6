"""A continuous token bucket: how much may be taken now, and when exactly could an amount be taken?

Pure: time comes in as an argument (seconds of any clock that normally only grows). Admission is *defined* by
`ready_at`, so the two can never disagree by a rounding error. What the buckets of one API key do together is decided in
`streams.llm.key_buckets`.
"""

from __future__ import annotations

import math

from streams.errors import InvalidInput
from streams.llm.peaks import Peaks


class NeverFits(InvalidInput, ValueError):
    """An amount that exceeds what the bucket can ever hold; waiting would not help.

    Attributes:
        amount: What was asked for.
        capacity: The most that can be taken at once.
    """

    def __init__(self, what: str, amount: float, capacity: float) -> None:
        super().__init__(
            f"{amount:,.0f} {what} can never be taken at once, the bucket holds {capacity:,.0f}; "
            "make the request smaller, or raise the limit or its burst"
        )
        self.amount = amount
        self.capacity = capacity


class TokenBucket:
    """Holds up to *capacity* tokens and refills at *rate* tokens a second.

    The level may go below zero: that is debt, from `charge`, and refills like everything else. A clock that goes back
    by less than the time to fill the bucket is ignored (nothing refills until it has caught up, so that clocks read out
    of order mint nothing); one that goes back further was set, and the bucket continues from the new time with the
    level that it had.

    Args:
        capacity: Most tokens held, and so the largest amount that can be reserved.
        rate: Tokens a second.
        now: The clock's time.
        level: Tokens held at *now*; full if not given. A limit shared with an unknown past starts at 0.
        what: What the tokens are, for messages: `requests`, `input tokens`.

    Raises:
        ValueError: *capacity* or *rate* is not a positive finite number.
    """

    __slots__ = ("_at", "_capacity", "_level", "_mark", "_peaks", "_rate", "what")

    def __init__(
        self, capacity: float, rate: float, now: float, *, level: float | None = None, what: str = "tokens"
    ) -> None:
        self._capacity, self._rate = _positive("capacity", capacity), _positive("rate", rate)
        self._level = capacity if level is None else min(level, capacity)
        self._at = now
        self._mark = 0
        self._peaks = Peaks()
        self.what = what

    @property
    def capacity(self) -> float:
        """Most tokens held."""
        return self._capacity

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self._rate

    @property
    def mark(self) -> int:
        """Number of the latest take. Read after a reservation, it tells `refund` what came later."""
        return self._mark

    def available(self, now: float) -> float:
        """Return the level at *now*; negative when in debt."""
        self._follow_clock(now)
        elapsed = now - self._at
        return self._level if elapsed <= 0 else min(self._capacity, self._level + elapsed * self._rate)

    def debt(self, now: float) -> float:
        """Return how far the level is below zero at *now*; 0.0 when it is not."""
        return max(0.0, -self.available(now))

    def ready_at(self, amount: float, now: float) -> float:
        """Return the earliest time, not before *now*, at which *amount* could be reserved if nothing else happens.

        Exact: `reserve` succeeds at that time and fails just before.

        Raises:
            NeverFits: *amount* exceeds the capacity.
        """
        if amount > self._capacity:
            raise NeverFits(self.what, amount, self._capacity)
        self._follow_clock(now)
        missing = amount - self._level
        return now if missing <= 0 else max(now, self._at + missing / self._rate)

    def reserve(self, amount: float, now: float) -> bool:
        """Take *amount* if it is there, else change nothing and return False.

        Raises:
            NeverFits: *amount* exceeds the capacity.
        """
        if self.ready_at(amount, now) > now:
            return False
        self.charge(amount, now)
        return True

    def charge(self, amount: float, now: float) -> None:
        """Take *amount* whether it is there or not: a request that used more than it reserved."""
        level = self.available(now)
        self._mark += 1
        self._peaks.record(self._mark, level)
        self._level = level - amount
        self._at = max(self._at, now)

    def refund(self, amount: float, now: float, *, since: int) -> float:
        """Give back part of an earlier take, as if it had been smaller from the start.

        Refill that the bucket would not have had room for then is not given back: see `streams.llm.peaks`.

        Args:
            amount: Tokens that were taken but not used.
            now: The clock's time.
            since: `mark` as it was right after that take.

        Returns:
            What the level rose by.
        """
        level = self.available(now)
        room = self._capacity - max(level, self._peaks.since(since))
        given = max(0.0, min(amount, room))
        if given:
            self._peaks.lift(since, given)
            self._level, self._at = level + given, max(self._at, now)
        return given

    def lower(self, level: float, now: float) -> None:
        """Correct the level downwards to *level*; a level that is already lower stays."""
        current = self.available(now)
        if level < current:
            self._level, self._at = level, max(self._at, now)

    def resize(self, capacity: float, rate: float, now: float) -> None:
        """Change capacity and rate from *now* on; the level stays, as far as there is room for it.

        Raises:
            ValueError: *capacity* or *rate* is not a positive finite number.
        """
        level = self.available(now)
        self._capacity, self._rate = _positive("capacity", capacity), _positive("rate", rate)
        self._level, self._at = min(level, capacity), max(self._at, now)

    def _follow_clock(self, now: float) -> None:
        if now < self._at - self._capacity / self._rate:
            self._at = now


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} of a token bucket must be above 0 and finite, got {value}")
    return value
