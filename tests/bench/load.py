"""A closed loop of runs, the same for the floor and for the product: so many in flight, what they took."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import uvloop

AGENTS = 1_000
PAYLOAD = "x" * 300
PARTITIONS = 4
WARM_UP = 100

Run = Callable[[int], Awaitable[object]]
Role = Callable[..., Coroutine[Any, Any, None]]


async def measure(run: Run, in_flight: int, runs: int) -> dict[str, float]:
    """Return the figures of *runs* calls of *run*, each with its number, *in_flight* at a time, after a warm-up."""
    latencies: list[float] = []
    slots = asyncio.Semaphore(in_flight)

    async def one(number: int) -> None:
        async with slots:
            started = time.perf_counter()
            await run(number)
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(one(number) for number in range(min(runs, WARM_UP))))
    latencies.clear()
    started = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(runs)))
    elapsed_s = time.perf_counter() - started
    latencies.sort()
    return {
        "in_flight": in_flight,
        "runs": runs,
        "p50_ms": round(latencies[runs // 2] * 1e3, 2),
        "p99_ms": round(latencies[int(runs * 0.99)] * 1e3, 2),
        "runs_per_s": round(runs / elapsed_s, 1),
    }


@contextmanager
def processes(*roles: tuple[Role, Mapping[str, Any]]) -> Iterator[None]:
    """Run each role in a process of its own, killed at the end."""
    children = [process(*role) for role in roles]
    for child in children:
        child.start()
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.join()


def process(role: Role, arguments: Mapping[str, Any]) -> BaseProcess:
    """Return a process for a role, not started yet."""
    return multiprocessing.get_context("spawn").Process(target=_run, args=(role, arguments), daemon=True)


def _run(role: Role, arguments: Mapping[str, Any]) -> None:
    uvloop.run(role(**arguments))
