"""What an agent's state costs in memory and out of it: a hit, and a miss while the shards are under load.

Agents of 1 KB on a real Kafka and Postgres, of which memory holds a tenth. Half of the invocations go to agents that
are in memory, half to others; a miss is the time from the shard's question until it has the state.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from pydantic import BaseModel

from streams import App, Client, Context, load_settings
from streams.broker.connect import open_broker
from streams.broker.topics import create_namespace
from streams.cli.roles import collect_rarely
from streams.memory.cold import PostgresSource
from streams.memory.role import MemoryRole
from streams.records.state import StateDelta
from streams.shards.cold_reads import Ask
from streams.shards.role import ShardRole
from tests.bench.broker import kafka
from tests.bench.database import postgres
from tests.bench.engine import new_engine
from tests.bench.load import measure

AGENTS, HOT, IN_FLIGHT, RUNS = 2_000, 50, 50, 1_500
VALUE = "x" * 1_000
HITS = 100_000

app = App("cold")


class Work(BaseModel):
    """What a run is asked."""

    key: str


class Memory(BaseModel):
    """State of an agent instance."""

    runs: int = 0
    text: str = VALUE


@app.agent(key="key", state=Memory)
async def remember(ctx: Context[Memory], work: Work) -> int:
    """Change a field; the text of 1 KB stays as it is, but for the first time."""
    ctx.state.runs += 1
    if ctx.state.runs == 1:
        ctx.state.text = VALUE.upper()
    return ctx.state.runs


async def run() -> None:
    """Print the lines of `memory_hit` and `memory_miss`."""
    collect_rarely()
    print(json.dumps(hit(HITS)), flush=True)
    with kafka() as bootstrap, postgres() as dsn:
        print(json.dumps(await miss(bootstrap, dsn, AGENTS, RUNS)), flush=True)


def hit(times: int, agents: int = 10_000) -> dict[str, Any]:
    """Return what it costs to find out that state is here, and to see it: as an invocation does that starts."""
    engine = new_engine()
    value = json.dumps(VALUE).encode()
    for number in range(agents):
        engine.state.put(StateDelta(f"a/{number}", "text", value, 1, number + 1, f"a/{number}", 0))
        engine.cold.filter.add(f"a/{number}")
    owners = [f"a/{number * 7_919 % agents}" for number in range(times)]
    began = time.perf_counter()
    for owner in owners:
        if not engine.cold.at_hand(owner) or len(engine.state.view(owner).records["text"]) < 1_000:
            raise AssertionError(f"the state of {owner} is not here")
    return {"bench": "memory_hit", "agents": agents, "hit_us": round((time.perf_counter() - began) / times * 1e6, 2)}


async def miss(bootstrap: str, dsn: str, agents: int, runs: int) -> dict[str, Any]:
    """Return how long misses take, and invocations that meet one, beside those that do not."""
    settings = load_settings(
        namespace=f"cold-{uuid.uuid4().hex[:8]}",
        kafka={"bootstrap_servers": bootstrap},
        memory={"dsn": dsn},
        # A tenth of the agents fits.
        shards={"cache_bytes": agents // 10 * 2_600, "flush_check_s": 0.1},
    )
    broker = open_broker(settings.kafka)
    catalogue = settings.catalogue(app.name)
    shards = ShardRole(
        app, broker, catalogue, settings.shards, sources=(PostgresSource(settings.memory, catalogue.namespace),)
    )  # fmt: skip
    took = _timed(shards)
    try:
        await create_namespace(broker.admin, catalogue, 1)
        tasks = [asyncio.create_task(role.run()) for role in (shards, MemoryRole(broker, catalogue, settings.memory))]
        try:
            async with Client(app, settings=settings) as client:
                await _fill(client, agents)
                await _until(lambda: shards.room.used_bytes <= shards.room.limit_bytes)
                # Connections are made by the first misses.
                await measure(_ask(client, lambda n: f"a{n}"), IN_FLIGHT, min(100, agents - HOT))
                await _until(lambda: shards.room.used_bytes <= shards.room.limit_bytes)
                took.clear()
                hot, cold = await asyncio.gather(
                    measure(_ask(client, lambda n: f"a{agents - 1 - n % HOT}"), IN_FLIGHT // 2, runs),
                    measure(_ask(client, lambda n: f"a{n * 7_919 % (agents - HOT)}"), IN_FLIGHT // 2, runs),
                )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        names = [name for name in await broker.admin.list_topics() if name.startswith(f"{catalogue.namespace}.")]
        await broker.admin.delete_topics(names)
        await broker.close()
    (reads,) = shards.reads
    centiles = statistics.quantiles(took, n=100)
    return {
        "bench": "memory_miss",
        "agents": agents,
        "in_memory": agents // 10,
        "misses": len(took),
        "miss_p50_ms": round(centiles[49] * 1_000, 2),
        "miss_p99_ms": round(centiles[98] * 1_000, 2),
        "agents_per_query": round(reads.counters.agents / max(1, reads.counters.reads), 1),
        "runs_per_s": round(hot["runs_per_s"] + cold["runs_per_s"]),
        "hot_p50_ms": hot["p50_ms"],
        "hot_p99_ms": hot["p99_ms"],
        "cold_p50_ms": cold["p50_ms"],
        "cold_p99_ms": cold["p99_ms"],
    }


def _timed(shards: ShardRole) -> list[float]:
    """Take the time from each question to its answer."""
    took: list[float] = []
    (reads,) = shards.reads
    ask = reads.ask

    def timed(asked: Ask) -> None:
        began = time.perf_counter()

        def deliver(owner: str, deltas: tuple[StateDelta, ...]) -> None:
            took.append(time.perf_counter() - began)
            asked.deliver(owner, deltas)

        ask(Ask(asked.miss, asked.wanted, deliver, asked.stale))

    reads.ask = timed  # type: ignore[method-assign, assignment]
    return took


def _ask(client: Client, key: Callable[[int], str]) -> Callable[[int], Any]:
    numbers = count()

    async def one(_: int) -> None:
        handle = await client.submit(remember, Work(key=key(next(numbers))))
        result = await handle.result(timeout=60)
        if result.value < 2:
            raise AssertionError(f"{handle.invocation_id} did not find what its agent had remembered")

    return one


async def _fill(client: Client, agents: int) -> None:
    for start in range(0, agents, 500):
        keys = [f"a{number}" for number in range(start, min(agents, start + 500))]
        handles = [await client.submit(remember, Work(key=key)) for key in keys]
        await asyncio.gather(*(handle.result(timeout=60) for handle in handles))


async def _until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - counted by a role that gives no event
                await asyncio.sleep(0.05)
    if not condition():
        raise AssertionError("state was not evicted")


if __name__ == "__main__":
    asyncio.run(run())
