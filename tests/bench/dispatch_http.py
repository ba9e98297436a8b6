"""What the cases of the dispatcher share: the strict mock provider as a process, whose counters are the truth."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
from pydantic import SecretStr

from streams.breakers import BreakerPolicy, Guard
from streams.llm.dispatcher import Dispatcher
from streams.llm.pool import Pool
from streams.llm.providers import Provider
from streams.llm.settings import PoolSettings
from streams.records.steps import LlmRequest, LlmResult


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


def report(**fields: Any) -> None:
    """Print one line, with the machine's load: a busy one measures itself."""
    fields["load"] = os.getloadavg()[0]
    print(
        json.dumps({"bench": "dispatch", **{k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}})
    )
