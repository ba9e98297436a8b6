"""A cap on transactions per process and second: small transactions cost a process with many shards its throughput.

A transaction costs about 1.5 ms of CPU over client and broker whatever its size. Below the cap nobody waits; at the cap
each shard lingers just long enough, and its batch grows meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CommitPace:
    """A token bucket over the commits of all shards of a process.

    Args:
        per_s: Commits a second.
        burst: Commits that may come at once.
        clock: Monotonic seconds.
    """

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def delay_s(self) -> float:
        """Take a token and return how long to wait for it."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        self._tokens -= 1
        return 0.0 if self._tokens >= 0 else -self._tokens / self._per_s

    async def wait(self) -> None:
        """Wait for a token."""
        if (delay := self.delay_s()) > 0:
            await asyncio.sleep(delay)
