"""State that does not fit into memory, on real servers: evicted, tombstoned, read back, waited for."""

import asyncio
from pathlib import Path

from pydantic import BaseModel, SecretStr

from streams import App, Context, Log
from streams.broker.port import Partition
from streams.broker.table import read_to_end
from streams.memory.cold import PostgresSource
from streams.memory.embedded import EmbeddedPostgres
from streams.memory.settings import MemorySettings
from streams.shards.role import ShardRole
from tests.integration.running import Running, all_ready, running, until

SMALL = {"cache_bytes": 1, "flush_check_s": 0.05, "sweep_interval_s": 0.1, "tombstone_after_s": 0.0}

app = App("forgetful")


class Ask(BaseModel):
    key: str


class Memory(BaseModel):
    count: int = 0
    notes: Log[str] = Log()


@app.agent(key="key", state=Memory)
async def counter(ctx: Context[Memory], ask: Ask) -> list[str]:
    ctx.state.count += 1
    ctx.state.notes.append(f"{ask.key}{ctx.state.count}")
    return await ctx.state.notes.page()


def total(role: ShardRole, name: str) -> int:
    return sum(getattr(p.engine.cold.counters, name) for p in role.processors.values())


def in_memory(role: ShardRole) -> int:
    return sum(len(p.engine.state) for p in role.processors.values())


async def kept_in_log(it: Running) -> set[bytes]:
    partitions = [Partition(it.topic("state-deltas"), n) for n in range(it.catalogue.partitions)]
    latest: dict[bytes | None, bytes | None] = {}
    async for batch in read_to_end(it.broker, partitions):
        latest |= {record.key: record.value for record in batch}
    return {key for key, value in latest.items() if key and value is not None}


async def ask(it: Running, key: str, timeout_s: float = 30.0) -> list[str]:
    handle = await it.client.submit(counter, Ask(key=key))
    found: list[str] = (await handle.result(timeout=timeout_s)).value
    return found


async def test_state_leaves_memory_and_log_and_comes_back_for_the_next_owner_too(kafka: str, postgres: str) -> None:
    keys = [f"k{number}" for number in range(5)]
    async with running(app, kafka, roles=("shards",), dsn=postgres, partitions=2, shards=SMALL) as it:
        for round_number in (1, 2):
            for key in keys:
                assert await ask(it, key) == [f"{key}{n}" for n in range(1, round_number + 1)]
            await until(lambda: in_memory(it.shards) == 0, "all state has been evicted")
        assert total(it.shards, "misses") >= len(keys)
        async with asyncio.timeout(30):
            while await kept_in_log(it):  # noqa: ASYNC110 - the log gives no event
                await asyncio.sleep(0.1)
        assert total(it.shards, "tombstoned") >= 3 * len(keys)

        source = PostgresSource(MemorySettings(dsn=SecretStr(postgres)), it.catalogue.namespace)
        other = ShardRole(app, it.broker, it.catalogue, it.settings.shards, sources=(source,))
        task = asyncio.create_task(other.run())
        try:
            await until(lambda: len(other.processors) == 1 and all_ready(other, 1), "another process owns a shard")
            moved = next(iter(other.processors.values()))
            assert len(moved.engine.state) == 0
            for key in keys:
                assert await ask(it, key) == [f"{key}{n}" for n in (1, 2, 3)]
            assert await ask(it, "a new one") == ["a new one1"]
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_without_postgres_the_hot_go_on_and_the_cold_wait_until_it_is_back_or_they_are_late(
    kafka: str, tmp_path: Path
) -> None:
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    # Room for one agent; the one that was used last stays.
    settings = {**SMALL, "cache_bytes": 3_000, "sweep_interval_s": 600.0}
    try:
        async with running(app, kafka, roles=("shards",), dsn=server.dsn, partitions=1, shards=settings) as it:
            for key in ("cold", "colder", "hot"):
                await ask(it, key)
            await until(lambda: in_memory(it.shards) == 1, "the older ones are evicted")
            await asyncio.to_thread(server.stop, at_once=False)

            waiting = await it.client.submit(counter, Ask(key="cold"))
            late = await it.client.submit(counter, Ask(key="colder"), deadline=2.0)
            assert await ask(it, "hot") == ["hot1", "hot2"]
            status = await waiting.status()
            assert status["phase"] == "waiting"
            assert status["waits_for"][0]["name"] == "waiting for its state from the store"
            failed = await late.result(timeout=30)
            assert (failed.status, failed.error_type) == ("failed", "StateUnavailable")
            assert "state of counter/colder could not be read before the deadline" in failed.error_message

            server = EmbeddedPostgres(tmp_path)
            await asyncio.to_thread(server.start)
            found = await waiting.result(timeout=60)
            assert found.value == ["cold1", "cold2"]
    finally:
        await asyncio.to_thread(server.stop, at_once=True)
