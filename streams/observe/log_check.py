"""Whether the log answers: asked when somebody asks `/readyz` or scrapes, and not before.

One question at a time, however many ask, and its answer holds for a moment: probes of an orchestrator must not become a
load on a broker that is in trouble.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from streams.broker.port import Broker, Partition
from streams.errors import StreamsError

TIMEOUT_S: Final = 2.0
FRESH_S: Final = 1.0


class LogCheck:
    """Asks the log.

    Args:
        ask: Does something small that needs the log; raises when it cannot.
        address: Of the log, for the answer.
        timeout_s: Seconds without an answer that count as none.
        fresh_s: Seconds for which an answer is not asked for again.
        clock: Seconds of a clock that only grows.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[object]],
        address: str,
        *,
        timeout_s: float = TIMEOUT_S,
        fresh_s: float = FRESH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._address = address
        self._timeout_s = timeout_s
        self._fresh_s = fresh_s
        self._clock = clock
        self._asking = asyncio.Lock()
        self._answer = ""
        self._answered_at = float("-inf")

    @classmethod
    def of(cls, broker: Broker, anchor: str) -> LogCheck:
        """Return a check that asks *broker* for the end of the first partition of topic *anchor*."""
        place = Partition(anchor, 0)
        return cls(lambda: broker.admin.end_offsets([place]), broker.address)

    async def problem(self) -> str:
        """Return why the log cannot be used now; empty when it answers. Never raises."""
        async with self._asking:
            if self._clock() - self._answered_at >= self._fresh_s:
                self._answer = await self._find_out()
                self._answered_at = self._clock()
            return self._answer

    async def _find_out(self) -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ask()
        except TimeoutError:
            return f"Kafka at {self._address} has not answered for {self._timeout_s:g} s"
        except StreamsError as error:
            return str(error)
        return ""
