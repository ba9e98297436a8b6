"""A provider for simulations that counts as the mock provider does: what it grants is the truth, whoever dies."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from random import Random

from streams.demo.provider.config import Limits
from streams.demo.provider.meter import KeyMeters
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.provider_errors import Throttled
from streams.llm.usage import Usage


class StrictEndpoint:
    """Answers within *limits*; a call goes on to its end even when its caller has died.

    Args:
        latency_s: Least and most seconds that an answer takes.
    """

    def __init__(self, limits: Limits, chance: Random, latency_s: tuple[float, float] = (0.05, 1.0)) -> None:
        self._loop = asyncio.get_running_loop()
        self._meters = KeyMeters(limits, self._now_ns())
        self._chance = chance
        self._latency_s = latency_s
        self._ends: list[float] = []
        self.refused: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.granted: list[tuple[float, Usage]] = []
        self.most_open = 0

    async def __call__(self, request: ChatRequest) -> ChatResponse:
        now = self._loop.time()
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        self._meters.open = len(self._ends)
        text = str(request.messages[0]["content"])
        self.asked[text] += 1
        used = Usage(20, self._chance.randrange(1, 101))
        if (refusal := self._meters.grant(used.input_tokens, used.output_tokens, self._now_ns())) is not None:
            self.refused[refusal.what] += 1
            raise Throttled(f"{refusal.what}: {refusal.used} of {refusal.limit} used")
        self.granted.append((now, used))
        latency_s = self._chance.uniform(*self._latency_s)
        heapq.heappush(self._ends, now + latency_s)
        self.most_open = max(self.most_open, len(self._ends))
        await asyncio.sleep(latency_s)
        return ChatResponse("yes", usage=used)

    def _now_ns(self) -> int:
        return round(self._loop.time() * 1e9)
