"""What write-back costs: records of 500 bytes from their bytes to Postgres, beside upserts row by row.

The sink's part is everything but reading Kafka: decoding, coalescing, COPY and the guarded merge, in the sink's
batches. Afterwards older writes are thrown at the same rows in random order, and what they overwrote is counted.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import psycopg

from streams.breakers import BreakerPolicy, Guard
from streams.broker.port import LogRecord, Message, Partition
from streams.memory.decode import decode_batch
from streams.memory.settings import MemorySettings
from streams.memory.sink import Sink, SinkCounts
from streams.memory.store import PostgresStore
from streams.records import encode
from streams.records.state import StateDelta
from tests.bench import cold, sharing
from tests.bench.database import postgres

ROWS, ONE_BY_ONE, VALUE_BYTES = 100_000, 4_000, 500
PARTITION = Partition("bench.state-deltas", 0)

UPSERT = """
INSERT INTO state VALUES (%s, %s, %s, '{}', %s, %s, %s, '', false, now())
ON CONFLICT (owner, record) DO UPDATE SET value = excluded.value, epoch = excluded.epoch, sequence = excluded.sequence
WHERE (state.epoch, state.sequence) < (excluded.epoch, excluded.sequence)
"""


class _NoLetters:
    """A producer for a benchmark in which nothing is set aside."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def send(self, *messages: Message) -> tuple[int, ...]:
        raise AssertionError(f"{len(messages)} rows were refused")


def deltas(count: int, *, epoch: int) -> list[StateDelta]:
    """Records of as many owners, of the size that is asked for."""
    value = json.dumps("x" * (VALUE_BYTES - 2)).encode()
    return [
        StateDelta(f"agent/{n}", "note", value, epoch, n + 1, f"agent/{n}", 1_700_000_000_000) for n in range(count)
    ]


COVERS = ("cold", "sharing")
"""Cases that need not be run beside this one."""


async def run() -> None:
    """Print a JSON line of the sink (`sink_rows_per_s` and more), then of hits and misses, then of shared records."""
    with postgres() as dsn:
        settings = MemorySettings.model_validate({"dsn": dsn})
        async with PostgresStore(settings, f"bench-{uuid.uuid4().hex[:8]}") as store:
            await store.migrate()
            rows_per_s = await _write_back(store, deltas(ROWS, epoch=2), settings.batch_rows)
            stale = deltas(ROWS // 5, epoch=1)
            random.Random(1).shuffle(stale)
            await _write_back(store, [replace(d, sequence=d.sequence + ROWS) for d in stale], settings.batch_rows)
            kept = await store.read_state([f"agent/{n}" for n in range(ROWS // 5)])
        slowly = await _row_by_row(settings, f"bench-{uuid.uuid4().hex[:8]}")
    line = {
        "bench": "memory",
        "sink_rows_per_s": round(rows_per_s),
        "row_by_row_rows_per_s": round(slowly),
        "stale_overwrites": sum(found[0].epoch != 2 for found in kept.values()),
    }
    print(json.dumps(line), flush=True)
    await cold.run()
    await sharing.run()


async def _write_back(store: PostgresStore, records: Sequence[StateDelta], batch_rows: int) -> float:
    read = [LogRecord(*PARTITION, d.sequence, 0, d.owner.encode(), encode(d)) for d in records]
    guard = Guard("postgres", BreakerPolicy(), "bench", random.random)
    sink = Sink(
        store, _NoLetters(), guard, SinkCounts(),
        dead_letters="bench.dead-letters", retry_ceiling_s=1.0, now_ms=lambda: time.time_ns() // 1_000_000,
        luck=random.random,
    )  # fmt: skip
    started = time.perf_counter()
    for start in range(0, len(read), batch_rows):
        batch = decode_batch({PARTITION: read[start : start + batch_rows]}, states=PARTITION.topic, results="")
        await sink.write(batch, lambda: True)
    return len(read) / (time.perf_counter() - started)


async def _row_by_row(settings: MemorySettings, namespace: str) -> float:
    async with PostgresStore(settings, namespace) as store:
        await store.migrate()
    rows = deltas(ONE_BY_ONE, epoch=1)
    async with await psycopg.AsyncConnection.connect(settings.dsn.get_secret_value(), autocommit=True) as connection:
        await connection.execute(f'SET search_path TO "{namespace}"'.encode())
        started = time.perf_counter()
        for d in rows:
            await connection.execute(UPSERT, (d.owner, d.record, d.value, d.epoch, d.sequence, d.writer))
        return len(rows) / (time.perf_counter() - started)


if __name__ == "__main__":
    import asyncio

    asyncio.run(run())
