"""How much of a provider's limits is used, without a 429, and what being held costs: against the strict mock provider.

The mock runs as a process of its own, and its counters are the truth. A case counts what it granted in the second half
of a run, when the buckets have settled.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
from pydantic import SecretStr

from streams.breakers import BreakerPolicy, Guard
from streams.llm.chat import ChatRequest
from streams.llm.dispatcher import Dispatcher
from streams.llm.function import FunctionProvider
from streams.llm.openai import OpenAIProvider
from streams.llm.pool import Pool
from streams.llm.provider_errors import Throttled
from streams.llm.providers import Provider
from streams.llm.settings import PoolSettings
from streams.records.steps import LlmRequest, LlmResult

CASE_S = 8.0
LIMITS: dict[str, dict[str, int]] = {
    "requests": {"requests_per_minute": 3_000},
    "tokens": {"tokens_per_minute": 500_000},
    "input_tokens": {"input_tokens_per_minute": 300_000},
    "output_tokens": {"output_tokens_per_minute": 300_000},
    "concurrency": {"concurrency": 20},
}


@asynccontextmanager
async def mock(**config: Any) -> AsyncIterator[str]:
    """Run the mock provider and yield its address."""
    arguments = ["-m", "streams.demo.provider", "--with-stdin", "--config", json.dumps(config)]
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    # It complains about every request that the end of a case takes away.
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe, stderr=nowhere)
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def seen(http: httpx2.AsyncClient) -> dict[str, Any]:
    """Return the mock's counters."""
    stats: dict[str, Any] = (await http.get("/stats", timeout=30)).json()
    return stats


def dispatcher(provider: Provider, keys: int, **limits: Any) -> Dispatcher:
    """Return a dispatcher with one pool."""
    pool = Pool(
        "fast",
        PoolSettings(model="m", **limits),
        [SecretStr(f"k{number}") for number in range(keys)],
        provider,
        Guard("llm:fast", BreakerPolicy(), "bench", random.Random(1).random),
        time.monotonic,
        time.time,
    )
    return Dispatcher({"fast": pool}, max_result_bytes=1_000_000, clock=time.monotonic, now=time.time)


def request(number: int, chance: random.Random, tenant: str = "") -> LlmRequest:
    """Return a request of uneven size; the mock answers `write N` with N tokens."""
    words, filler = chance.choice([5, 20, 200]), "word " * chance.choice([5, 50, 400])
    body = {"messages": [{"role": "user", "content": f"{filler} write {words}"}], "max_output_tokens": words + 20}
    payload = orjson.dumps(body)
    now_ms = int(time.time() * 1000)
    return LlmRequest(
        f"a/{tenant or number}/{number}", 0, 0, "fast", payload, now_ms, now_ms + 600_000,
        input_tokens=len(payload) // 4 + 4, max_output_tokens=words + 20, tenant=tenant,
    )  # fmt: skip


async def keep_busy(one: Dispatcher, tenants: list[str], seconds: float, chance: random.Random) -> list[LlmResult]:
    """Keep one request of each entry of *tenants* open for some time; return what was answered in it."""
    ends, numbers, results = time.monotonic() + seconds, iter(range(10**9)), list[LlmResult]()

    async def worker(tenant: str) -> None:
        while time.monotonic() < ends:
            results.append(await one.answer(request(next(numbers), chance, tenant)))

    workers = [asyncio.create_task(worker(tenant)) for tenant in tenants]
    await asyncio.sleep(seconds)
    for task in workers:
        task.cancel()
    await asyncio.wait(workers)
    return results


async def limit(case: str, keys: int) -> None:
    """Measure how much of one limit is used, over all keys together what one alone has in the other cases."""
    latency_s = 0.5 if case == "concurrency" else 0.02
    limits = {name: value // keys for name, value in LIMITS[case].items()}
    async with (
        mock(limits={**limits, "burst_s": 2.0}, latency_p50_s=latency_s) as url,
        httpx2.AsyncClient(base_url=url) as http,
    ):
        provider, chance = OpenAIProvider(f"{url}/v1"), random.Random(2)
        one = dispatcher(provider, keys, burst_s=1.5, **limits)
        work = asyncio.create_task(keep_busy(one, [""] * 400, CASE_S, chance))
        await asyncio.sleep(CASE_S / 2)
        before, at = await seen(http), time.monotonic()
        await asyncio.sleep(CASE_S / 2 - 0.5)
        after, took_s = await seen(http), time.monotonic() - at
        await work
        await provider.close()
    done = {
        "requests": after["by_status"].get("200", 0) - before["by_status"].get("200", 0),
        "input_tokens": after["input_tokens"] - before["input_tokens"],
        "output_tokens": after["output_tokens"] - before["output_tokens"],
    }
    done["tokens"] = done["input_tokens"] + done["output_tokens"]
    allowed = next(iter(limits.values())) * keys
    share = done["requests"] * latency_s / allowed if case == "concurrency" else done[case] * 60 / allowed
    report(case=case, keys=keys, of_limit=share / took_s, rejected_429=after["rejected_429"])


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


async def fairness() -> None:
    """Ten equal tenants, one of which sends ten times as much."""
    chance = random.Random(4)
    tenants = [f"t{n}" for n in range(10)] * 20 + ["t0"] * 180

    async def answer(_: ChatRequest) -> str:
        await asyncio.sleep(0.005)
        return "x" * chance.choice([20, 80, 800])

    one = dispatcher(FunctionProvider(answer), 1, concurrency=8)
    results = await keep_busy(one, tenants, 5.0, chance)
    served: Counter[str] = Counter()
    for result in results:
        served[result.invocation.split("/")[1]] += result.input_tokens + result.output_tokens
    total, squares = sum(served.values()), sum(amount**2 for amount in served.values())
    report(case="ten tenants", jain=total**2 / (len(served) * squares), tenants=len(served))


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


def report(**fields: Any) -> None:
    """Print one line, with the machine's load: a busy one measures itself."""
    fields["load"] = os.getloadavg()[0]
    print(
        json.dumps({"bench": "dispatch", **{k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}})
    )


async def run() -> None:
    """Print one JSON line a case."""
    await seed_scenario()
    for case in LIMITS:
        await limit(case, 1)
    for case in ("requests", "output_tokens"):
        await limit(case, 5)
    await fairness()
    await cost()
