"""What sharing records costs: one agent alone with a record, a hundred that count in one; and what a write costs.

The shards are one process and the client another. `update` is measured by the shard's clock, where agent and record
belong to different shards: it reads and writes, two round trips. The same counter written without looking at its
version shows what is lost then. The write of state is measured inside the process: from the step that makes it until it
is durable, beside the transaction that makes it so.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest.mock import patch

from streams.broker.kafka.broker import KafkaBroker
from streams.broker.partitioning import partition_for
from streams.broker.port import Message
from streams.broker.ring import OrderedRing
from streams.broker.topics import create_namespace
from streams.client.client import Client
from streams.records import decode
from streams.records.state import StateDelta
from streams.shards.role import ShardRole
from streams.shards.state_writes import StateWrites
from tests.bench.broker import kafka
from tests.bench.load import PARTITIONS, measure, processes
from tests.bench.pipeline import quiet
from tests.bench.sharing_app import Turn, app, bump, count, remember, settings, shards

ALONE, AGENTS, TIMES, WRITES = 300, 100, 20, 1_000
WRITERS = 4


async def run() -> None:
    """Print the lines of shared updates and of what a write of state takes."""
    with kafka() as bootstrap, quiet():
        print(json.dumps(await updates(bootstrap, ALONE, AGENTS, TIMES)), flush=True)
        print(json.dumps(await acknowledged(bootstrap, WRITES)), flush=True)


async def updates(bootstrap: str, alone: int, agents: int, times: int) -> dict[str, Any]:
    """Return the figures of updates: alone, contended, and of a counter whose last write wins."""
    async with _namespace(bootstrap) as (arguments, client):
        with processes((shards, arguments)):
            here, there = _record_in(0), _record_in(1)
            agent = next(f"a{n}" for n in range(100) if partition_for(f"count/a{n}".encode(), PARTITIONS) == 0)
            await _count(client, agent, there, 20, "update")  # a warm-up
            remote = await _count(client, agent, there, alone, "update")
            local = await _count(client, agent, here, alone, "update")
            outside = await _from_outside(client, there, alone)
            contended_s, found = await _contend(client, "contended", agents, times, "update")
            _, kept = await _contend(client, "careless", agents, times, "read and write")
    asked = agents * times
    return {
        "bench": "memory",
        "case": "shared updates",
        "agents": agents,
        "updates": asked,
        "shared_updates_per_s": round(asked / contended_s, 1),
        "lost_updates": asked - found,
        "last_write_wins_lost": asked - kept,
        "update_p50_ms": round(median(remote), 2),
        "update_p99_ms": round(sorted(remote)[int(len(remote) * 0.99)], 2),
        "update_own_shard_p50_ms": round(median(local), 2),
        "client_update_p50_ms": round(median(outside), 2),
    }


async def acknowledged(bootstrap: str, writes: int) -> dict[str, Any]:
    """Return what a write of agent state takes until it is durable, beside the transaction that it is in."""
    async with _namespace(bootstrap) as (arguments, client):
        chosen = settings(**arguments)
        broker = KafkaBroker(chosen.kafka_for_payloads())
        role = ShardRole(app, broker, chosen.catalogue(app.name, dict(app.lanes())), chosen.shards, watch=False)
        with _watched() as watched:
            task = asyncio.create_task(role.run())

            async def one(number: int) -> None:
                turn = Turn(agent=f"a{number % 100}", record="")
                await (await client.submit(remember, turn)).result(timeout=60)

            try:
                await measure(one, WRITERS, writes)
            finally:
                task.cancel()
                await asyncio.wait((task,))
                await broker.close()
    return {
        "bench": "memory",
        "case": "write of state",
        "in_flight": WRITERS,
        "writes": len(watched.waited),
        "write_ack_p50_ms": round(median(watched.waited) * 1e3, 3),
        "transaction_p50_ms": round(median(watched.transactions) * 1e3, 3),
        "ack_over_transaction_p50_ms": round(median(watched.over) * 1e3, 3),
    }


@dataclass(slots=True)
class Watched:
    """When each write of state was made and durable, and how long the transactions took, in seconds."""

    written: dict[tuple[int, int], float] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    transactions: list[float] = field(default_factory=list)
    over: list[float] = field(default_factory=list)


@contextmanager
def _watched() -> Iterator[Watched]:
    """Watch every write of state in this process from its step to the end of its transaction."""
    watched, write, transact = Watched(), StateWrites.write, OrderedRing.transact

    def noted(self: StateWrites, *args: Any, **named: Any) -> StateDelta:
        delta = write(self, *args, **named)
        watched.written[self._engine.partition, delta.sequence] = time.perf_counter()
        return delta

    async def timed(self: OrderedRing, messages: Sequence[Message]) -> tuple[int, ...]:
        deltas = [(m.partition, decode(m.value or b"")) for m in messages if m.topic.endswith(".state-deltas")]
        started = time.perf_counter()
        offsets = await transact(self, messages)
        ended = time.perf_counter()
        for partition, delta in deltas:
            at = watched.written.pop((partition or 0, delta.sequence))
            watched.waited.append(ended - at)
            watched.transactions.append(ended - started)
            watched.over.append(started - at)
        return offsets

    with patch.object(StateWrites, "write", noted), patch.object(OrderedRing, "transact", timed):
        yield watched


def _record_in(partition: int) -> str:
    return next(
        f"r{n}" for n in range(100) if partition_for(f"shared/counters/r{n}".encode(), PARTITIONS) == partition
    )  # fmt: skip


async def _count(client: Client, agent: str, record: str, times: int, how: str) -> list[float]:
    handle = await client.submit(count, Turn(agent=agent, record=record, times=times, how=how))
    result = await handle.result(timeout=120)
    took: list[float] = result.value
    return took


async def _from_outside(client: Client, record: str, times: int) -> list[float]:
    counters, took = client.shared("counters", int), []
    for _ in range(times):
        started = time.perf_counter()
        await counters.update(record, bump)
        took.append((time.perf_counter() - started) * 1e3)
    return took


async def _contend(client: Client, record: str, agents: int, times: int, how: str) -> tuple[float, int]:
    """Let so many agents count at once; return the seconds that it took, and what the counter says then."""
    started = time.perf_counter()
    await asyncio.gather(*(_count(client, f"a{number}", record, times, how) for number in range(agents)))
    elapsed = time.perf_counter() - started
    return elapsed, (await client.shared("counters", int).read(record)).value or 0


@asynccontextmanager
async def _namespace(bootstrap: str) -> AsyncIterator[tuple[dict[str, str], Client]]:
    arguments = {"bootstrap": bootstrap, "namespace": f"bench-{uuid.uuid4().hex[:8]}"}
    chosen = settings(**arguments)
    broker = KafkaBroker(chosen.kafka_for_payloads())
    await create_namespace(broker.admin, chosen.catalogue(app.name, dict(app.lanes())), 1)
    async with Client(app, settings=chosen, broker=broker) as client:
        yield arguments, client
    await broker.close()
