"""Write-back on a real Kafka and a real Postgres: what the log says reaches the tables, whatever dies meanwhile."""

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker, LogRecord, Message, Partition, TopicSpec
from streams.broker.table import read_to_end
from streams.errors import StoreError, StoreUnavailable
from streams.memory.embedded import EmbeddedPostgres
from streams.memory.role import MemoryRole
from streams.memory.settings import MemorySettings
from streams.memory.store import PostgresStore
from streams.records import decode_as, encode
from streams.records.control import DeadLetter
from streams.records.invocations import Result
from streams.records.state import StateDelta
from streams.records.topics import Catalogue

KINDS = ("owners", "state-deltas", "results", "dead-letters", "breakers", "outcomes")


def delta(owner: str, sequence: int, *, epoch: int = 1, value: bytes | None = b"1", **fields: Any) -> StateDelta:
    return StateDelta(owner, "note", value, epoch, sequence, owner, 1_700_000_000_000 + sequence, **fields)


class World:
    """A namespace of its own on the servers under test."""

    def __init__(self, broker: Broker, dsn: str, partitions: int = 2) -> None:
        self.broker = broker
        self.dsn = dsn
        self.catalogue = Catalogue(f"mem-{uuid.uuid4().hex[:8]}", partitions)
        self.settings = MemorySettings(dsn=dsn, flush_interval_s=0.02, retry_ceiling_s=0.5)
        self.store = PostgresStore(self.settings, self.catalogue.namespace)
        self.rings = {n: broker.ring(f"{self.catalogue.namespace}-test-{n}") for n in range(partitions)}

    def role(self) -> MemoryRole:
        return MemoryRole(self.broker, self.catalogue, self.settings)

    async def create_topics(self) -> None:
        plans = [plan for plan in self.catalogue.topics() if plan.kind.name in KINDS]
        await self.broker.admin.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in plans])

    async def commit(self, partition: int, *records: StateDelta | Result | bytes | None) -> None:
        """One transaction of a shard."""
        messages = []
        for record in records:
            topic = self.catalogue.name("results" if isinstance(record, Result) else "state-deltas")
            key = f"{record.owner}/{record.record}" if isinstance(record, StateDelta) else "junk"
            value = encode(record) if isinstance(record, (StateDelta, Result)) else record
            messages.append(Message(topic, key.encode(), value, partition))
        await self.rings[partition].transact(messages)

    async def sequences(self, owners: list[str]) -> dict[str, int]:
        return {owner: deltas[0].sequence for owner, deltas in (await self.store.read_state(owners)).items()}

    async def watermark(self) -> dict[Partition, int]:
        partitions = [Partition(self.catalogue.name("state-deltas"), n) for n in self.rings]
        ends = await self.broker.admin.end_offsets(partitions)
        committed = await self.broker.admin.group_offsets(self.role().group, partitions)
        return {p: ends[p] - committed.get(p, 0) for p in partitions}

    async def dead_letters(self) -> list[DeadLetter]:
        topic = self.catalogue.name("dead-letters")
        found: list[LogRecord] = []
        async for batch in read_to_end(self.broker, [Partition(topic, n) for n in self.rings]):
            found += batch
        return [decode_as(DeadLetter, record.value) for record in found if record.value is not None]


@asynccontextmanager
async def world(kafka: str, dsn: str) -> AsyncIterator[World]:
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka))
    it = World(broker, dsn)
    try:
        await it.create_topics()
        for ring in it.rings.values():
            await ring.start()
        async with it.store:
            await it.store.migrate()
            yield it
    finally:
        for ring in it.rings.values():
            await ring.close()
        await broker.close()


@asynccontextmanager
async def running(role: MemoryRole) -> AsyncIterator[MemoryRole]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(role.run())
        try:
            yield role
        finally:
            task.cancel()


async def eventually(check: Callable[[], Awaitable[bool]], *, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.05)


async def test_what_shards_commit_reaches_postgres(kafka, postgres):
    async with world(kafka, postgres) as it, running(it.role()) as role:
        await it.commit(0, delta("a/1", 1), delta("a/1", 2, value=b'{"b": 1, "a": "\\u0000"}', vector={"a/1": 2}))
        await it.commit(1, delta("a/2", 1), None, Result("a", "2", "k", "succeeded", b"7", finished_at_ms=99, cost=0.5))

        async def arrived() -> bool:
            return (await it.store.count())["invocations"] == 1 and len(await it.sequences(["a/1", "a/2"])) == 2

        await eventually(arrived)
        found = await it.store.read_state(["a/1", "a/2", "a/3"])
        assert found["a/1"] == (delta("a/1", 2, value=b'{"b": 1, "a": "\\u0000"}', vector={"a/1": 2}),)
        result = await it.store.read_invocation("a/2/k")
        assert result == Result("a", "2", "k", "succeeded", b"7", finished_at_ms=99, cost=0.5)
        assert await it.store.read_invocation("a/2/unknown") is None
        assert role.counts.set_aside == 0

        async def drained() -> bool:
            return set((await it.watermark()).values()) == {0}

        await eventually(drained)


async def test_an_older_epoch_never_overwrites_a_newer_one_deletes_included(kafka, postgres):
    async with world(kafka, postgres) as it:
        await it.commit(0, delta("a/1", 5, epoch=2), delta("a/2", 6, epoch=2, value=None, deleted=True))
        async with running(it.role()):

            async def first() -> bool:
                return await it.store.count() == {"state": 2, "deleted": 1, "invocations": 0}

            await eventually(first)
            zombie = [delta("a/1", 900, epoch=1), delta("a/2", 901, epoch=1), delta("a/3", 902, epoch=1)]
            await it.commit(0, *zombie)

            async def second() -> bool:
                return "a/3" in await it.sequences(["a/3"])

            await eventually(second)
            assert await it.sequences(["a/1", "a/2", "a/3"]) == {"a/1": 5, "a/3": 902}


async def test_what_cannot_be_decoded_or_stored_goes_to_dead_letters_and_the_rest_is_written(kafka, postgres):
    async with world(kafka, postgres) as it:
        poison = delta("a/nul\0byte", 3)
        await it.commit(0, *[delta(f"a/{n}", n) for n in range(50)], b"junk", poison)
        async with running(it.role()) as role:

            async def settled() -> bool:
                return role.counts.set_aside == 2 and (await it.store.count())["state"] == 50

            await eventually(settled)
        letters = {letter.error_type: letter for letter in await it.dead_letters()}
        assert letters["CodecError"].value == b"junk"
        assert letters["RowRefused"].value == encode(poison)
        assert letters["RowRefused"].offset == 51
        assert "0x00" in letters["RowRefused"].reason


SINK = """
import asyncio, sys
from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.memory.role import MemoryRole
from streams.memory.settings import MemorySettings
from streams.records.topics import Catalogue

async def main(kafka, dsn, namespace):
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka))
    settings = MemorySettings(dsn=dsn, batch_rows=40, flush_interval_s=0.01, group_instance_id="sink-0")
    await MemoryRole(broker, Catalogue(namespace, 2), settings).run()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_sink_that_is_killed_again_and_again_loses_nothing(kafka, postgres):
    async with world(kafka, postgres) as it:
        owners = [f"a/{n}" for n in range(300)]

        async def load() -> None:
            for round_number in range(1, 16):
                for start in range(0, 300, 30):
                    changed = [delta(owner, round_number) for owner in owners[start : start + 30]]
                    await it.commit(start % 2, *changed)
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(load())
            kills = 0
            while kills < 3 or not loading.done():
                sink = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", SINK, kafka, postgres, it.catalogue.namespace
                )
                try:
                    await asyncio.sleep(1.3)
                finally:
                    os.kill(sink.pid, signal.SIGKILL)
                    await sink.wait()
                kills += 1
        role = MemoryRole(
            it.broker, it.catalogue, it.settings.model_copy(update={"group_instance_id": "sink-0"})
        )  # fmt: skip
        async with running(role):

            async def complete() -> bool:
                found = await it.sequences(owners)
                return len(found) == 300 and set(found.values()) == {15}

            await eventually(complete)


async def test_a_restart_of_postgres_is_survived(kafka, tmp_path: Path):
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        async with world(kafka, server.dsn) as it, running(it.role()) as role:
            await it.commit(0, delta("a/1", 1))

            async def before() -> bool:
                return await it.sequences(["a/1"]) == {"a/1": 1}

            await eventually(before)
            await asyncio.to_thread(server.stop, at_once=False)
            for sequence in range(2, 40):
                await it.commit(0, delta("a/1", sequence), delta(f"a/{sequence}", sequence))

            async def noticed() -> bool:
                return role.counts.failures > 0

            await eventually(noticed)
            server = EmbeddedPostgres(tmp_path)
            await asyncio.to_thread(server.start)
            assert server.dsn == it.dsn

            async def after() -> bool:
                try:
                    return await it.sequences(["a/1", "a/39"]) == {"a/1": 39, "a/39": 39}
                except StoreUnavailable:
                    return False

            await eventually(after)
            assert role.guards[0].phase == "closed"
    finally:
        await asyncio.to_thread(server.stop, at_once=True)


async def test_an_unreachable_postgres_is_named_without_its_password(kafka):
    settings = MemorySettings(dsn="postgresql://app:secret@127.0.0.1:1/streams")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        async with PostgresStore(settings, "payments"):
            pass
    assert time.monotonic() - started < 15
    assert "app@127.0.0.1:1/streams" in str(caught.value)
    assert "STREAMS_MEMORY__DSN" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_tables_of_a_newer_version_are_refused(postgres):
    namespace = f"mem-{uuid.uuid4().hex[:8]}"
    store = PostgresStore(MemorySettings(dsn=postgres), namespace)
    async with store:
        missing = "lacks 0001_state, 0002_invocations, 0003_retention; run `streams memory migrate`"
        with pytest.raises(StoreError, match=missing):
            await store.check()
        assert [m.version for m in await store.migrate()] == [1, 2, 3]
        assert await store.migrate() == ()
        await store.check()
        async with store._postgres.transaction("faking the future") as connection:
            await connection.execute("INSERT INTO schema_versions (version, name) VALUES (99, 'later')")
        with pytest.raises(StoreError, match="is of version 99, this code knows up to 3"):
            await store.check()


async def test_a_postgres_that_accepts_and_stays_silent_is_given_up_in_time():
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = MemorySettings(dsn=f"postgresql://app@127.0.0.1:{port}/streams")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=rf"app@127.0.0.1:{port}/streams"):
        async with PostgresStore(settings, "payments"):
            pass
    assert time.monotonic() - started < 15
    server.close()


async def test_a_missing_right_is_named(postgres):
    role = f"mem_{uuid.uuid4().hex[:8]}"
    async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw'").format(sql.Identifier(role)))
        try:
            dsn = make_conninfo(postgres, user=role, password="pw")
            async with PostgresStore(MemorySettings(dsn=dsn), role) as store:
                with pytest.raises(StoreError, match=r"does not allow migrating: permission denied for database"):
                    await store.migrate()
        finally:
            await admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
