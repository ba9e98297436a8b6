"""Dispatchers as they are (the role `llm` on a simulated log) before a provider that counts strictly, in virtual time.

So a minute takes seconds, and what is measured is what was decided, not the machine that decided it.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from streams.app import App
from streams.broker.partitioning import partition_for
from streams.broker.port import Message, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.demo.provider.config import Limits
from streams.demo.provider.meter import KeyMeters
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.provider_errors import Throttled
from streams.llm.providers import OnText
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.llm.usage import Usage
from streams.records import encode
from streams.records.ids import agent_of
from streams.records.steps import LlmRequest
from streams.records.topics import Catalogue
from streams.testing import virtual_time

SETTLE_S = 30.0
MEASURED_S = 60.0
BURST_S = 10.0
LATENCY_S = (0.5, 1.5)
EPOCH_S = 1_700_000_000.0

LIMITS: dict[str, dict[str, int]] = {
    "requests": {"requests_per_minute": 1_200},
    "input_tokens": {"input_tokens_per_minute": 360_000},
    "output_tokens": {"output_tokens_per_minute": 60_000},
    "concurrency": {"concurrency": 20},
}
"""Of all keys together."""


@dataclass(slots=True)
class StrictProvider:
    """Grants as the mock provider does, key by key, and remembers when it granted what."""

    limits: Limits
    chance: random.Random
    name: str = "strict"
    refused: Counter[str] = field(default_factory=Counter)
    granted: list[tuple[float, float, str, Usage]] = field(default_factory=list)
    _meters: dict[str, KeyMeters] = field(default_factory=dict)
    _ends: dict[str, list[float]] = field(default_factory=dict)

    async def complete(
        self, request: ChatRequest, key: str, timeout_s: float, on_text: OnText | None = None
    ) -> ChatResponse:
        """Answer, or refuse with a 429."""
        now = asyncio.get_running_loop().time()
        now_ns = round(now * 1e9)
        meters = self._meters.setdefault(key, KeyMeters(self.limits, now_ns))
        ends = self._ends.setdefault(key, [])
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        meters.open = len(ends)
        tenant, tokens = str(request.messages[0]["content"]).split()
        bound = request.max_output_tokens or 1
        used = Usage(int(tokens), max(1, round(bound * self.chance.uniform(0.3, 1.0))))
        if (refusal := meters.grant(used.input_tokens, used.output_tokens, now_ns)) is not None:
            self.refused[refusal.what] += 1
            raise Throttled(refusal.what)
        latency_s = self.chance.uniform(*LATENCY_S)
        heapq.heappush(ends, now + latency_s)
        self.granted.append((now, now + latency_s, tenant, used))
        await asyncio.sleep(latency_s)
        return ChatResponse("yes", usage=used)

    async def close(self) -> None:
        """Nothing is open."""


def measure(limit: str, dispatchers: int, keys: int, tenants: dict[str, int] | None = None) -> dict[str, Any]:
    """Return how much of a limit was used in a virtual minute, how many were refused, and who was served how much.

    Args:
        tenants: How many requests each one has waiting; enough for the minute if None.
    """
    return virtual_time.run(
        _measure(limit, dispatchers, keys, tenants or {"one": 2_500}), seed=1, max_time_s=1e4, max_steps=10**9
    )


async def _measure(limit: str, dispatchers: int, keys: int, tenants: dict[str, int]) -> dict[str, Any]:
    loop, chance = asyncio.get_running_loop(), random.Random(2)
    each = {name: value // keys for name, value in LIMITS[limit].items()}
    provider = StrictProvider(Limits(**each, burst_s=BURST_S), random.Random(3))
    log, catalogue = SimulatedLog(random.Random(4)), Catalogue("bench", partitions=6, lanes={"llm-requests": ("fast",)})
    outside = SimulatedBroker(log, "bench")
    await outside.admin.create_topics([TopicSpec(p.name, p.partitions) for p in catalogue.topics()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        path.write_text("\n".join(f"key-{number}" for number in range(keys)))
        pool = PoolSettings(model="m", keys_file=path, burst_s=BURST_S, timeout_s=5.0, **each)
        for number in range(dispatchers):
            broker = SimulatedBroker(log, f"llm-{number}")
            role = LlmRole(
                App("bench"), broker, catalogue, LlmSettings(pools={"fast": pool}),
                now=lambda: EPOCH_S + loop.time(), clock=loop.time, rng=random.Random(number), machine="bench",
                providers={"fast": provider},
            )  # fmt: skip
            broker.process.spawn(role.run())
        await asyncio.sleep(5.0)
    work = [tenant for tenant, count in tenants.items() for _ in range(count)]
    chance.shuffle(work)
    messages = [_message(catalogue, number, tenant, chance) for number, tenant in enumerate(work)]
    async with outside.producer() as producer:
        await producer.send(*messages)
    await asyncio.sleep(SETTLE_S)
    since = loop.time()
    await asyncio.sleep(MEASURED_S)
    until = loop.time()
    done = [grant for grant in provider.granted if since <= grant[0] < until]
    amounts = {
        "requests": len(done),
        "input_tokens": sum(used.input_tokens for *_, used in done),
        "output_tokens": sum(used.output_tokens for *_, used in done),
        # Seconds of open calls, in minutes.
        "concurrency": sum(max(0.0, min(e, until) - max(s, since)) for s, e, *_ in provider.granted) / MEASURED_S,
    }
    served: Counter[str] = Counter()
    for _, _, tenant, used in done:
        served[tenant] += used.total_tokens
    allowed = sum(each.values()) * keys
    return {
        "of_limit": amounts[limit] / allowed,
        "rejected_429": provider.refused.total(),
        "requests": len(done),
        "served": served,
    }


def _message(catalogue: Catalogue, number: int, tenant: str, chance: random.Random) -> Message:
    tokens, bound = chance.choice([20, 100, 800]), chance.choice([20, 60, 200])
    body = {"messages": [{"role": "user", "content": f"{tenant} {round(tokens * 0.9)}"}], "max_output_tokens": bound}
    issued = int((EPOCH_S + asyncio.get_running_loop().time()) * 1000)
    request = LlmRequest(
        f"a/{number}/1", 0, 0, "fast", orjson.dumps(body), issued, issued + 3_600_000,
        input_tokens=tokens, max_output_tokens=bound, tenant=tenant,
    )  # fmt: skip
    key = agent_of(request.invocation).encode()
    lane = catalogue.name("llm-requests", "fast")
    return Message(lane, key, encode(request), partition_for(key, catalogue.partitions))
