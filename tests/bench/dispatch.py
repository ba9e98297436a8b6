"""How much of a provider's limits is used, without a 429; how fairly; what being held costs; and how others do.

The matrix runs in virtual time (`dispatch_fleet`), everything else against the strict mock provider over HTTP. A case
counts what was granted when the buckets have settled.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from streams.cli.roles import collect_rarely
from streams.llm.chat import ChatRequest
from streams.llm.function import FunctionProvider
from streams.llm.limits import NOTHING, WHOLE
from streams.llm.openai import OpenAIProvider
from streams.llm.provider_errors import Throttled
from tests.bench import dispatch_fleet, dispatch_rivals
from tests.bench.dispatch_http import dispatcher, keep_busy, mock, report, request, seen

LATENCY_S = {"requests": 0.02, "concurrency": 0.5}
LIMITS: dict[str, dict[str, int]] = {
    "requests": {"requests_per_minute": 3_000},
    "concurrency": {"concurrency": 20},
}
MINUTE_S = 60.0
SHORT_S = 6.0
SETTLE_S = 4.0
HELD_SENT = 3_000


async def limit(case: str, measured_s: float) -> None:
    """Measure how much of one limit is used over HTTP, in real time."""
    latency_s, limits = LATENCY_S[case], LIMITS[case]
    async with (
        mock(limits={**limits, "burst_s": 2.0}, latency_p50_s=latency_s) as url,
        httpx2.AsyncClient(base_url=url) as http,
    ):
        provider, chance = OpenAIProvider(f"{url}/v1"), random.Random(2)
        one = dispatcher(provider, 1, burst_s=1.5, **limits)
        work = asyncio.create_task(keep_busy(one, [""] * 200, SETTLE_S + measured_s + 0.5, chance))
        await asyncio.sleep(SETTLE_S)
        before, at = await seen(http), time.monotonic()
        await asyncio.sleep(measured_s)
        after, took_s = await seen(http), time.monotonic() - at
        await work
        await provider.close()
    done = after["by_status"].get("200", 0) - before["by_status"].get("200", 0)
    allowed = next(iter(limits.values()))
    share = done * latency_s / allowed if case == "concurrency" else done * 60 / allowed
    report(
        case=case, clock="real", measured_s=took_s, dispatchers=1, keys=1, of_limit=share / took_s,
        rejected_429=after["rejected_429"],
    )  # fmt: skip


async def matrix() -> None:
    """Every binding limit, with one and three dispatchers, one and five keys: a virtual minute each."""
    for binding in dispatch_fleet.LIMITS:
        for dispatchers in (1, 3):
            for keys in (1, 5):
                found = await asyncio.to_thread(dispatch_fleet.measure, binding, dispatchers, keys)
                del found["served"]
                report(
                    case=binding, clock="virtual", measured_s=dispatch_fleet.MEASURED_S, dispatchers=dispatchers,
                    keys=keys, **found,
                )  # fmt: skip


async def fairness() -> None:
    """Ten equal tenants, one of which sends ten times as much, over one and over three dispatchers."""
    tenants = {"t0": 3_000} | {f"t{number}": 300 for number in range(1, 10)}
    for dispatchers in (1, 3):
        for binding in ("requests", "concurrency"):
            found = await asyncio.to_thread(dispatch_fleet.measure, binding, dispatchers, 1, tenants)
            served = [found["served"][tenant] for tenant in tenants]
            jain = sum(served) ** 2 / (len(served) * sum(amount**2 for amount in served))
            report(
                case="ten tenants, one sends ten times as much", binding=binding, dispatchers=dispatchers, jain=jain,
                least=min(served) / max(served), tenants=len(served), rejected_429=found["rejected_429"],
            )  # fmt: skip


async def seed_scenario() -> None:
    """Forty at once against a limit of twenty: sent as they come, and dispatched."""
    async with mock(limits={"concurrency": 20}, latency_p50_s=0.1) as url, httpx2.AsyncClient(base_url=url) as http:
        provider, chance = OpenAIProvider(f"{url}/v1"), random.Random(3)

        async def raw(number: int) -> str:
            chat = ChatRequest.from_payload(request(number, chance).request, model="m")
            try:
                await provider.complete(chat, "k0", 10)
            except Throttled:
                return "rejected"
            return "ok"

        said = Counter(await asyncio.gather(*(raw(n) for n in range(40))))
        report(case="40 at once, sent as they come", ok=said["ok"], rejected_429=said["rejected"])
        one = dispatcher(provider, 1, concurrency=20)
        results = await asyncio.gather(*(one.answer(request(n, chance)) for n in range(40)))
        rejected = (await seen(http))["rejected_429"] - said["rejected"]
        report(case="40 at once, dispatched", ok=sum(r.status == "ok" for r in results), rejected_429=rejected)
        await provider.close()


async def cost() -> None:
    """What dispatching adds when nothing is limited, and how it stands to the raw client."""

    async def rate(call: Callable[[int], Any], requests: int = 1_500) -> float:
        numbers, started = iter(range(requests)), time.perf_counter()

        async def worker() -> None:
            for number in numbers:
                await call(number)

        await asyncio.gather(*(worker() for _ in range(50)))
        return requests / (time.perf_counter() - started)

    async def one_by_one(call: Callable[[int], Any]) -> float:
        times = []
        for number in range(300):
            started = time.perf_counter()
            await call(number)
            times.append(time.perf_counter() - started)
        return sorted(times)[len(times) // 2] * 1000

    async with mock() as url:
        provider, chance = OpenAIProvider(f"{url}/v1"), random.Random(5)
        requests = [request(n, chance) for n in range(1_500)]
        chats = [ChatRequest.from_payload(r.request, model="m") for r in requests]
        one = dispatcher(provider, 1)
        raw_ms = await one_by_one(lambda n: provider.complete(chats[n], "k0", 10))
        held_ms = await one_by_one(lambda n: one.answer(requests[n]))
        raw_per_s = await rate(lambda n: provider.complete(chats[n], "k0", 10))
        per_s = await rate(lambda n: one.answer(requests[n]))
        await provider.close()
    quick = dispatcher(FunctionProvider(lambda _: "yes"), 1)
    function_per_s = await rate(lambda n: quick.answer(requests[n]))
    report(
        case="unlimited", added_p50_ms=held_ms - raw_ms, of_raw_client=per_s / raw_per_s, per_s=per_s,
        function_per_s=function_per_s,
    )  # fmt: skip


async def held() -> None:
    """What a hundred thousand held requests cost those that go out."""

    async def per_s(waiting: int) -> float:
        one = dispatcher(FunctionProvider(lambda _: "yes"), 1, concurrency=64)
        pool = one.pools["fast"]
        pool.allot([NOTHING])
        chance, done = random.Random(6), asyncio.Semaphore(0)
        some = [request(number, chance, f"t{number % 50}") for number in range(1_000)]

        async def ask(number: int) -> None:
            await one.answer(some[number % 1_000])
            done.release()

        tasks = [asyncio.create_task(ask(number)) for number in range(waiting + HELD_SENT)]
        while pool.status().held < len(tasks):  # noqa: ASYNC110 - they come in their own time
            await asyncio.sleep(0.01)
        started = time.perf_counter()
        pool.allot([WHOLE])
        for _ in range(HELD_SENT):
            await done.acquire()
        took_s = time.perf_counter() - started
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return HELD_SENT / took_s

    with collected_rarely():
        few, many = await per_s(1_000), await per_s(100_000)
        few = max(few, await per_s(1_000))
    report(case="100,000 held", few_per_s=few, many_per_s=many, of_few=many / few)


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Collect garbage as rarely as processes with roles do."""
    before = gc.get_threshold()
    collect_rarely()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def run() -> None:
    """Print one JSON line a case."""
    await seed_scenario()
    await cost()
    await held()
    await matrix()
    await fairness()
    await limit("concurrency", SHORT_S)
    await limit("requests", MINUTE_S)
    await dispatch_rivals.crowd()
