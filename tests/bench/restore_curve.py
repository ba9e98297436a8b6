"""How long a shard takes to come back, by the number of agents that ever were: with eviction, and without.

So many agents of 1 KB in one shard. Without a store everything is read and kept. With one, the memory holds 10,000 of
them and the rest leaves the log as it does in production, only without the day's wait: written to Postgres, flushed,
swept by a running shard, compacted by the broker. Then the shard is restored again, in a process of its own each time.

`python -m tests.bench.restore_curve --agents 10000 100000 1000000 --plot curve.png` draws the two curves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pydantic import SecretStr

from streams.breakers import BreakerPolicy, Guard
from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker, Message, Partition, TopicSpec
from streams.cli.roles import collect_rarely
from streams.memory.cold import PostgresSource
from streams.memory.settings import MemorySettings
from streams.memory.store import PostgresStore
from streams.records import encode
from streams.records.journal import Cursor
from streams.records.state import StateDelta
from streams.records.topics import Catalogue
from streams.shards import sweep
from streams.shards.cold_reads import ColdReads
from streams.shards.live import CURSOR_KEY
from streams.shards.pacing import CommitPace
from streams.shards.processor import ShardProcessor
from streams.shards.settings import ShardSettings
from streams.shards.watchdog import Watchdog
from tests.bench.broker import kafka
from tests.bench.database import postgres
from tests.bench.engine import new_engine
from tests.bench.open_invocations import rss_mb

AGENTS = (10_000, 100_000, 1_000_000)
HOT = 10_000
VALUE = json.dumps("x" * 1_000).encode()
BATCH = 2_000
HOT_BYTES = HOT * 2_190
"""What 10,000 such agents take in memory."""

SETTLED_S = 180.0
COMPACTED = {
    "delete.retention.ms": "1000",
    "max.compaction.lag.ms": "2000",
    "min.cleanable.dirty.ratio": "0.01",
    "segment.ms": "2000",
}
"""In place of an hour and a minute: compaction as it is some time later."""


async def run(sizes: Sequence[int] = AGENTS) -> list[dict[str, Any]]:
    """Print a line for each size; return them."""
    lines = []
    with kafka() as bootstrap, postgres() as dsn:
        for agents in sizes:
            lines.append(await curve_point(bootstrap, dsn, agents))
            print(json.dumps(lines[-1]), flush=True)
    return lines


async def curve_point(bootstrap: str, dsn: str, agents: int) -> dict[str, Any]:
    """Return how long the restores take that meet so many agents."""
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap))
    await broker.connect()
    catalogue = Catalogue(f"curve-{uuid.uuid4().hex[:8]}", partitions=1)
    specs = [
        TopicSpec(t.name, t.partitions, 1, {**t.config, **(COMPACTED if t.kind.name == "state-deltas" else {})})
        for t in catalogue.topics()
    ]
    await broker.admin.create_topics(specs)
    try:
        await _write(broker, catalogue, agents)
        whole = _in_a_process(bootstrap, "", catalogue.namespace)
        await _flush(broker, catalogue, dsn, agents)
        with patch.object(sweep, "PORTION", agents):  # a day's work at once needs no more than one look at the log
            swept_s, tombstoned = await _sweep(broker, catalogue, dsn)
        evicted = await _compacted(broker, bootstrap, dsn, catalogue, agents)
    finally:
        await broker.admin.delete_topics([spec.name for spec in specs])
        await broker.close()
    return {
        "bench": "restore_curve",
        "agents": agents,
        "without_s": whole["seconds"],
        "without_records": whole["records"],
        "without_rss_mb": whole["rss_mb"],
        "with_s": evicted["seconds"],
        "with_records": evicted["records"],
        "with_rss_mb": evicted["rss_mb"],
        "in_memory": evicted["in_memory"],
        "tombstoned": tombstoned,
        "swept_s": round(swept_s, 1),
    }


def _deltas(agents: int) -> Iterator[StateDelta]:
    for number in range(agents):
        owner = f"support/customer-{number:08d}"
        yield StateDelta(owner, "notes", VALUE, 1, number + 1, owner, 1_700_000_000_000, vector={owner: 1})


def _batches(agents: int) -> Iterator[list[StateDelta]]:
    batch: list[StateDelta] = []
    for delta in _deltas(agents):
        batch.append(delta)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _write(broker: Broker, catalogue: Catalogue, agents: int) -> None:
    ring = broker.ring(f"{catalogue.namespace}-shard-0")
    await ring.start()
    states, journal = catalogue.name("state-deltas"), catalogue.name("journal")
    for batch in _batches(agents):
        messages = [Message(states, f"{d.owner}\x00{d.record}".encode(), encode(d), 0) for d in batch]
        cursor = Message(journal, CURSOR_KEY, encode(Cursor(1, batch[-1].sequence, 0)), 0)
        await ring.transact([*messages, cursor])
    await ring.close()


async def _flush(broker: Broker, catalogue: Catalogue, dsn: str, agents: int) -> None:
    """Do what the sink does: write everything, then commit the position."""
    async with PostgresStore(MemorySettings(dsn=SecretStr(dsn)), catalogue.namespace) as store:
        await store.migrate()
        for batch in _batches(agents):
            await store.write_state(batch)
    source = Partition(catalogue.name("state-deltas"), 0)
    end = (await broker.admin.end_offsets([source]))[source]
    async with broker.reader(group=catalogue.flush_group) as reader:
        await reader.assign({source: end})
        await reader.commit({source: end})


def _processor(broker: Broker, catalogue: Catalogue, dsn: str) -> tuple[ShardProcessor, ColdReads | None]:
    async def confirm() -> None: ...

    reads = None
    if dsn:
        source = PostgresSource(MemorySettings(dsn=SecretStr(dsn)), catalogue.namespace)
        guard = Guard("postgres", BreakerPolicy(), "bench", lambda: 0.5)
        reads = ColdReads(
            source, guard, linger_s=0.002, batch=500, now_ms=lambda: int(time.time() * 1000), clock=time.monotonic,
            luck=lambda: 0.5,
        )  # fmt: skip
    settings = ShardSettings(cache_bytes=HOT_BYTES, sweep_interval_s=0.1, tombstone_after_s=0.0)
    processor = ShardProcessor(
        broker, catalogue, 0, engine=new_engine(), settings=settings, confirm=confirm,
        pace=CommitPace(300, 30, time.monotonic), watchdog=Watchdog(60, 600, lambda code: None), reads=reads,
    )  # fmt: skip
    return processor, reads


async def _sweep(broker: Broker, catalogue: Catalogue, dsn: str) -> tuple[float, int]:
    """Let a shard at work take out of the log what is not in use; return the seconds, and how many records left."""
    processor, reads = _processor(broker, catalogue, dsn)
    assert reads is not None
    sweeper = processor.keeper.sweeper
    assert sweeper is not None
    task = asyncio.create_task(processor.run())
    try:
        await asyncio.wait_for(processor.ready.wait(), 120)
        source = processor.keeper.source
        processor.keeper.advance((await broker.admin.group_offsets(catalogue.flush_group, [source]))[source])
        began = time.perf_counter()
        while sweeper.passes == 0:  # noqa: ASYNC110 - a pass gives no event
            await asyncio.sleep(0.05)
        return time.perf_counter() - began, processor.engine.cold.counters.tombstoned
    finally:
        processor.stop()
        await asyncio.wait([task], timeout=10)
        await reads.close()


async def _compacted(broker: Broker, bootstrap: str, dsn: str, catalogue: Catalogue, agents: int) -> dict[str, Any]:
    """Restore until the broker has compacted what it can; some writes make it close its segments."""
    until = time.monotonic() + SETTLED_S
    last = _in_a_process(bootstrap, dsn, catalogue.namespace)
    *_, newest = _deltas(agents)
    again = Message(catalogue.name("state-deltas"), f"{newest.owner}\x00notes".encode(), encode(newest), 0)
    async with broker.producer() as producer:
        while last["records"] > 1.6 * last["in_memory"] and time.monotonic() < until:
            await producer.send(again)
            await asyncio.sleep(5)
            last = _in_a_process(bootstrap, dsn, catalogue.namespace)
    return last


def _in_a_process(bootstrap: str, dsn: str, namespace: str) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_restore, (bootstrap, dsn, namespace))


def _restore(bootstrap: str, dsn: str, namespace: str) -> dict[str, Any]:
    return asyncio.run(_restored(bootstrap, dsn, namespace))


async def _restored(bootstrap: str, dsn: str, namespace: str) -> dict[str, Any]:
    collect_rarely()
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap))
    await broker.connect()
    processor, reads = _processor(broker, Catalogue(namespace, partitions=1), dsn)
    await processor._restore()
    figures = {
        "seconds": round(processor.restored_s, 3),
        "records": processor.restored_records,
        "in_memory": len(processor.engine.state),
        "rss_mb": round(rss_mb()),
    }
    if reads is not None:
        await reads.close()
    await broker.close()
    return figures


def plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw both curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = [line["agents"] for line in lines]
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    axes.loglog(sizes, [line["without_s"] for line in lines], "o-", label="everything stays in the log")
    axes.loglog(sizes, [line["with_s"] for line in lines], "s-", label=f"{HOT:,} in use, the rest evicted")
    axes.set_xlabel("agents of 1 KB that ever were, in one shard")
    axes.set_ylabel("seconds to restore")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restore_curve", description=__doc__)
    parser.add_argument("--agents", type=int, nargs="+", default=AGENTS, help="sizes")
    parser.add_argument("--plot", type=Path, help="where to draw the curves, a PNG")
    given = parser.parse_args()
    lines = asyncio.run(run(given.agents))
    if given.plot:
        plot(lines, given.plot)


if __name__ == "__main__":
    main()
