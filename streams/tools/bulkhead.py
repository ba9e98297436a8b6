"""What keeps one tool's calls within their own: places, and a pace.

A tool has as many places as its `concurrency`, and calls wait for them in their order. Its `rate` is a token bucket of
which this process uses the part that goes with the partitions that it owns, so that all workers together keep to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streams.llm.bucket import TokenBucket

BURST_S = 0.1
"""What a bucket holds, in seconds of its rate: a late wake-up costs no call, a second sees little more than that."""


class Places:
    """A bounded number of places; those who wait get one in their order.

    Attributes:
        taken: Places in use.
    """

    def __init__(self, count: int) -> None:
        self.taken = 0
        self._count = count
        self._waiters: dict[asyncio.Future[bool], None] = {}

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiters)

    async def enter(self) -> bool:
        """Take a place; True once it is taken, False when `nudge`d while waiting for it."""
        if self.taken < self._count and not self._waiters:
            self.taken += 1
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.leave()
            raise
        finally:
            self._waiters.pop(waiter, None)

    def leave(self) -> None:
        """Give a place back: to the first that waits."""
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            if not waiter.done():
                waiter.set_result(True)
                return
        self.taken -= 1

    def nudge(self) -> None:
        """Let all that wait look again whether they still want a place: a breaker has opened."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(False)


class Pacer:
    """Lets calls go at a rate, and not at all while the dependency asks to be left alone.

    Args:
        rate: Calls a second for all workers together; None for no limit.
        clock: A clock that only grows, in seconds.
    """

    def __init__(self, rate: float | None, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._held_until = 0.0
        self._bucket = None if rate is None else TokenBucket(_burst(rate), rate, clock(), level=1.0, what="calls")

    def share(self, part: float) -> None:
        """Use this part of the rate, above 0 and up to 1, from now on."""
        if self._bucket is not None and self._rate is not None:
            self._bucket.resize(_burst(self._rate * part), self._rate * part, self._clock())

    def hold(self, seconds: float) -> None:
        """Let nothing go for so long: the dependency has answered with a Retry-After."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    async def wait(self, most_s: float) -> bool:
        """Wait for a call's turn; False at once when it would not come within *most_s*. Turns come in order."""
        bucket, now = self._bucket, self._clock()
        turn = max(self._held_until, now if bucket is None else bucket.ready_at(1.0, now))
        if turn - now > most_s:
            return False
        if bucket is not None:
            bucket.charge(1.0, now)
        if turn > now:
            await asyncio.sleep(turn - now)
        return True


def _burst(rate: float) -> float:
    return max(1.0, rate * BURST_S)
