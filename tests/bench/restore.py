"""Taking a shard over: a journal with the rewrites of live and finished invocations, read from Kafka and assembled.

Every run leaves what the product leaves: its entry rewritten at each step, then its marker; the newest runs are still
open. Records are counted as they are read, rewrites included, because an active segment is not compacted.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker, Message, TopicSpec
from streams.cli.roles import collect_rarely
from streams.records import decode, encode
from streams.records.journal import Cursor
from streams.records.topics import Catalogue
from streams.shards.effects import Event
from streams.shards.engine import Engine
from streams.shards.live import CURSOR_KEY
from streams.shards.pacing import CommitPace
from streams.shards.processor import ShardProcessor
from streams.shards.settings import ShardSettings
from streams.shards.watchdog import Watchdog
from tests.bench.broker import kafka
from tests.bench.engine import answer_to, invocation, new_engine

FINISHED, OPEN = 20_000, 2_000
BATCH = 500


async def run() -> None:
    """Print the line."""
    collect_rarely()
    with kafka() as bootstrap:
        print(json.dumps(await restore(bootstrap, FINISHED, OPEN)), flush=True)


async def restore(bootstrap: str, finished: int, still_open: int) -> dict[str, Any]:
    """Return the figures of one shard's restore."""
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap))
    await broker.connect()
    catalogue = Catalogue(f"restore-{uuid.uuid4().hex[:8]}", partitions=1)
    await broker.admin.create_topics([TopicSpec(t.name, t.partitions, 1, t.config) for t in catalogue.topics()])
    try:
        journal_bytes = await _fill(broker, catalogue, finished, still_open)
        processor = _processor(broker, catalogue)
        await processor._restore()
        if processor.engine.open_count != still_open:
            raise AssertionError(f"{processor.engine.open_count} of {still_open} open invocations came back")
    finally:
        await broker.admin.delete_topics([topic.name for topic in catalogue.topics()])
        await broker.close()
    return {
        "bench": "restore",
        "records": processor.restored_records,
        "open": still_open,
        "bytes": journal_bytes,
        "seconds": round(processor.restored_s, 3),
        "records_per_s": round(processor.restored_records / processor.restored_s),
    }


async def _fill(broker: Broker, catalogue: Catalogue, finished: int, still_open: int) -> int:
    """Write the journal of so many invocations, as an engine makes it; return its bytes."""
    engine, written = new_engine(), 0
    ring = broker.ring(f"{catalogue.namespace}-shard-0")
    await ring.start()
    starts = [*range(0, finished, BATCH), *range(finished, finished + still_open, BATCH)]
    for start, end in zip(starts, [*starts[1:], finished + still_open], strict=True):
        leave_open = start >= finished
        arrived = [invocation("three_steps", number) for number in range(start, end)]
        kind = "invocations"
        now = engine.now
        while arrived:
            now += 0.001
            writes = engine.step([Event(kind, decode(data)) for data in arrived], max(now, 1.7e9))
            journal = {write.key: write.value for write in writes if write.kind == "journal"}
            journal[CURSOR_KEY] = encode(Cursor(1, engine.sequence, engine.accepted))
            written += sum(len(value or b"") for value in journal.values())
            await ring.transact([Message(catalogue.name("journal"), k, v, 0) for k, v in journal.items()])
            answers = [answer for write in writes if (answer := answer_to(write)) is not None]
            arrived = [] if leave_open and answers and answers[0].step == 3 else [encode(a) for a in answers]
            kind = "tool-results"
    await ring.close()
    return written


def _processor(broker: Broker, catalogue: Catalogue) -> ShardProcessor:
    async def confirm() -> None: ...

    settings = ShardSettings()
    engine: Engine = new_engine()
    return ShardProcessor(
        broker,
        catalogue,
        0,
        engine=engine,
        settings=settings,
        confirm=confirm,
        pace=CommitPace(300, 30, lambda: 0.0),
        watchdog=Watchdog(60, 600, lambda code: None),
    )
