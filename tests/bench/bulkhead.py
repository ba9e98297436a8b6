"""One worker with fifty healthy tools and one that is dead: what the healthy ones keep of what they have alone.

Calls are written to `tool-calls` as a shard writes them and answered by a worker in a process of its own. Beside the
dead tool each of the 51 gets the same share of the calls; every call of the dead one hangs until its timeout. Once with
breakers, and once with breakers that only measure, so that the worker's shares and places are on their own.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from random import Random
from statistics import median
from typing import Any

from streams.app import App
from streams.breakers import BreakerSettings
from streams.broker.connect import open_broker
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker, Message, Partition
from streams.broker.topics import create_namespace
from streams.records import decode, encode
from streams.records.steps import ToolCall, ToolCancel, ToolResult
from streams.records.topics import Catalogue
from streams.tools.role import ToolRole
from streams.tools.settings import ToolSettings
from tests.bench.broker import kafka
from tests.bench.load import PARTITIONS, processes

HEALTHY = 50
DEAD_TIMEOUT_S = 30.0
CALL_S = 0.02
IN_FLIGHT = 64
RUNS = 4_000
ROUNDS = 3
DEAD = "dead"
MEASURE_ONLY = 100_000
"""Calls that a breaker wants to see before it decides: more than there are."""


def make_app() -> App:
    """Return the tools."""
    app = App("bulkhead")

    async def healthy() -> None:
        await asyncio.sleep(CALL_S)

    async def dead() -> None:
        await asyncio.Event().wait()

    for number in range(HEALTHY):
        app.tool(timeout=5, effect="read", fallback=None, name=f"healthy-{number}")(healthy)
    app.tool(timeout=DEAD_TIMEOUT_S, effect="read", fallback=None, name=DEAD)(dead)
    return app


async def serve(bootstrap: str, namespace: str, breakers: bool) -> None:
    """Work the calls, as `streams run --role tools` does."""
    broker = open_broker(KafkaSettings(bootstrap_servers=bootstrap))
    thresholds = (
        BreakerSettings() if breakers else BreakerSettings(minimum_calls=MEASURE_ONLY, window_calls=MEASURE_ONLY)
    )
    await ToolRole(make_app(), broker, Catalogue(namespace, PARTITIONS), ToolSettings(), breakers=thresholds).run()


class Caller:
    """Makes calls and waits for their results."""

    def __init__(self, broker: Broker, catalogue: Catalogue) -> None:
        self._broker = broker
        self._catalogue = catalogue
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._made = 0

    async def read(self) -> None:
        """Take results for ever."""
        sources = [Partition(self._catalogue.name("tool-results"), number) for number in range(PARTITIONS)]
        async with self._broker.reader() as reader:
            await reader.assign(dict.fromkeys(sources, 0))
            while True:
                for records in (await reader.poll(timeout_s=1)).values():
                    for record in records:
                        result = decode(record.value or b"")
                        if isinstance(result, ToolResult) and (waiter := self._waiting.pop(result.invocation, None)):
                            waiter.set_result(None)

    async def measure(self, tools: Sequence[str], runs: int) -> dict[str, float]:
        """Return what the healthy tools do while *runs* of their calls are made, evenly over *tools*."""
        latencies: list[float] = []
        slots, draw = asyncio.Semaphore(IN_FLIGHT), Random(1)
        hanging: dict[int, asyncio.Task[None]] = {}
        async with self._broker.producer() as producer:

            async def send(number: int, record: ToolCall | ToolCancel) -> None:
                topic = self._catalogue.name("tool-calls")
                await producer.send(Message(topic, b"a", encode(record), number % PARTITIONS))

            async def one(tool: str, number: int) -> None:
                waiter = self._waiting[f"a/{number}/1"] = asyncio.get_running_loop().create_future()
                now_ms = int(time.time() * 1000)
                await send(number, ToolCall(f"a/{number}/1", 0, 1, tool, b"{}", "read", now_ms, now_ms + 90_000))
                await waiter

            async def timed(tool: str, number: int) -> None:
                started = time.perf_counter()
                try:
                    await one(tool, number)
                    latencies.append(time.perf_counter() - started)
                finally:
                    slots.release()

            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                healthy = 0
                while healthy < runs:
                    tool = draw.choice(tools)
                    self._made += 1
                    if tool == DEAD:  # in nobody's slot: those who call it wait on their own
                        hanging[self._made] = asyncio.ensure_future(one(tool, self._made))
                        continue
                    await slots.acquire()
                    group.create_task(timed(tool, self._made))
                    healthy += 1
            elapsed_s = time.perf_counter() - began
            # Called off, so that the next run is not beside them.
            for number in hanging:
                await send(number, ToolCancel(f"a/{number}/1", 0, 1, DEAD))
            await asyncio.wait_for(asyncio.gather(*hanging.values()), DEAD_TIMEOUT_S)
        latencies.sort()
        return {
            "healthy_per_s": round(runs / elapsed_s, 1),
            "p99_ms": round(latencies[int(runs * 0.99)] * 1e3, 1),
            "dead_calls": len(hanging),
        }


async def bulkhead(bootstrap: str, *, breakers: bool, runs: int = RUNS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return what the healthy tools have alone and beside the dead one, each run alternating with the other."""
    broker = open_broker(KafkaSettings(bootstrap_servers=bootstrap))
    try:
        alone, beside = await _rounds(broker, bootstrap, breakers, runs, rounds)
    finally:
        await broker.close()
    best, kept = _median(alone), _median(beside)
    return {
        "bench": "bulkhead",
        "case": "breakers" if breakers else "breakers that only measure",
        "healthy_tools": HEALTHY,
        "in_flight": IN_FLIGHT,
        "alone": best,
        "beside_the_dead": kept,
        "healthy_throughput_ratio": round(kept["healthy_per_s"] / best["healthy_per_s"], 3),
        "healthy_p99_ratio": round(kept["p99_ms"] / best["p99_ms"], 2),
    }


async def _rounds(
    broker: Broker, bootstrap: str, breakers: bool, runs: int, rounds: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    names = [f"healthy-{number}" for number in range(HEALTHY)]
    catalogue = Catalogue(f"bulkhead-{uuid.uuid4().hex[:6]}", PARTITIONS)
    await create_namespace(broker.admin, catalogue, 1)
    arguments = {"bootstrap": bootstrap, "namespace": catalogue.namespace, "breakers": breakers}
    with processes((serve, arguments)):
        caller = Caller(broker, catalogue)
        reading = asyncio.ensure_future(caller.read())
        try:
            await caller.measure(names, runs // 8)
            alone, beside = [], []
            for _ in range(rounds):
                alone.append(await caller.measure(names, runs))
                beside.append(await caller.measure([*names, DEAD], runs))
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    return alone, beside


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(figures[name] for figures in runs) for name in runs[0]}


async def run() -> None:
    """Measure and print a line for each case."""
    with kafka() as bootstrap:
        for breakers in (True, False):
            print(json.dumps(await bulkhead(bootstrap, breakers=breakers)), flush=True)
