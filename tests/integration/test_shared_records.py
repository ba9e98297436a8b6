"""Shared records and agent state on real Kafka: from handlers and from outside, and while their owner is killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import uuid
from collections import defaultdict
from random import Random
from typing import Any

import pytest

from streams import Client, InvalidInput, VersionConflict, Versioned, load_settings
from streams.broker.connect import open_broker
from streams.broker.port import Partition
from streams.broker.table import read_to_end
from streams.broker.topics import create_namespace
from streams.records.state import StateDelta
from tests.integration.running import running
from tests.integration.sharing_app import Sharing, app, noter, own_shards, sharer
from tests.simulation.sharing import call_as_client, judge, shared_deltas_of

KILLS, SHARERS, CALLERS = 2, 16, 4
KEYS = ("x", "y")
WHATS = ("read", "write", "blind", "delete", "update", "update", "update")


async def test_records_are_shared_between_agents_and_clients(kafka: str):
    async with running(app, kafka, roles=("shards",)) as system:
        risk = system.client.shared("sim", int, writer="desk")
        assert await risk.read("x") == Versioned(None, {}, exists=False)
        assert await risk.write("x", 5, expected={}) == {"desk": 1}
        handle = await system.client.submit(sharer, Sharing(key="a", operations=[("read", "x"), ("update", "x")]))
        seen = (await handle.result(timeout=30)).value
        assert seen[0][6:9] == ["ok", 5, 1]
        now = await risk.read("x")
        assert (now.value, now.version) == (seen[1][7], {"desk": 1, "sharer/a": 1})
        with pytest.raises(VersionConflict, match="written since by sharer/a") as missed:
            await risk.write("x", 6, expected={"desk": 1})
        assert (missed.value.writers, missed.value.relation) == (("sharer/a",), "older")
        assert (missed.value.expected, missed.value.current) == ({"desk": 1}, {"desk": 1, "sharer/a": 1})
        counted = await asyncio.gather(*(risk.update("z", lambda count: (count or 0) + 1) for _ in range(10)))
        assert sorted(one.value for one in counted) == list(range(1, 11))
        gone = await risk.delete("x", expected=now.version)
        assert await risk.read("x") == Versioned(None, gone, exists=False)
        with pytest.raises(InvalidInput, match="key in shared records 'sim' is empty"):
            await risk.read("")
        with pytest.raises(InvalidInput, match="cannot be stored"):
            await risk.write("x", "many", expected=None)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match=r"shared/big/x of 1\.05 MB exceeds 1\.00 MB \(max_payload_bytes\)"):
            await system.client.shared("big").write("x", "x" * 1_050_000, expected=None)


async def test_agent_state_is_read_and_written_from_outside(kafka: str):
    async with running(app, kafka, roles=("shards",)) as system:
        client = system.client
        lines = [("line", f"{number}") for number in range(250)]
        await (await client.submit(noter, Sharing(key="a", operations=[("title", "first"), *lines]))).result(timeout=30)
        state = client.state("noter/a", writer="desk")
        read = await state.read()
        assert (read.value.title, read.version) == ("first", {"title": {"noter/a": 1}})
        page = await state.log("lines")
        assert (page.first, page.length, page.entries[0], page.entries[-1]) == (150, 250, "150", "249")
        assert (await state.log("lines", before=page.first, size=3)).entries == ["147", "148", "149"]
        version = await state.write("title", "second", expected=read.version["title"])
        assert version == {"noter/a": 1, "desk": 1}
        with pytest.raises(VersionConflict, match="written since by desk"):
            await state.write("title", "third", expected=read.version["title"])
        with pytest.raises(InvalidInput, match="Notes has no state field 'subject'; it has title, lines"):
            await state.write("subject", "x", expected={})
        with pytest.raises(InvalidInput, match=r"value for state field Notes\.title does not fit"):
            await state.write("title", 7, expected=version)
        busy = await client.submit(noter, Sharing(key="a", operations=[("wait", "go"), ("title", "last")]))
        while (await busy.status())["phase"] != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        with pytest.raises(VersionConflict, match=f"is at work on {busy.invocation_id}"):
            await state.write("title", "lost", expected=version, wait=0.3)
        waiting = asyncio.create_task(state.write("title", "late", expected=version))
        await busy.signal("go")
        await busy.result(timeout=30)
        with pytest.raises(VersionConflict, match="written since by noter/a"):
            await waiting
        assert (await state.read()).value.title == "last"
        async with Client(system.catalogue.namespace, settings=system.settings) as stranger:
            assert (await stranger.state("noter/a").read()).value == {"title": "last"}
            with pytest.raises(InvalidInput, match="no agent 'nobody'"):
                await stranger.state("nobody/a").read()


@pytest.mark.slow
@pytest.mark.timeout(300)  # on a machine that does much else each start of the owner takes ten seconds and more
async def test_what_is_seen_while_the_owner_is_killed_can_have_happened_one_after_the_other(kafka: str):
    namespace = f"sharers-{uuid.uuid4().hex[:8]}"
    settings = load_settings(
        namespace=namespace, kafka={"bootstrap_servers": kafka}, client={"query_timeout_s": 90.0}
    )  # fmt: skip
    broker = open_broker(settings.kafka_for_payloads())
    catalogue = settings.catalogue(app.name)
    await create_namespace(broker.admin, catalogue, 1)
    owner = Owner(kafka, namespace)
    draw, seen = Random(7), []
    try:
        async with Client(app, settings=settings) as client:

            async def share(number: int) -> None:
                operations = [(draw.choice(WHATS), draw.choice(KEYS)) for _ in range(8)]
                handle = await client.submit(sharer, Sharing(key=f"a{number}", operations=operations))
                seen.extend((await handle.result(timeout=100)).value)

            async def call(number: int) -> None:
                for turn in range(8):
                    what, key, token = draw.choice(WHATS), draw.choice(KEYS), f"client-{number}-{turn}"
                    start = time.time()
                    done = await call_as_client(client, what, key, token)
                    seen.append(["shared", what, key, token, start, time.time(), *done])
                    await asyncio.sleep(0.2)

            async with asyncio.TaskGroup() as group:
                for number in range(CALLERS):
                    group.create_task(call(number))
                for kill in range(KILLS + 1):
                    for number in range(SHARERS):
                        group.create_task(share(kill * SHARERS + number))
                    before = len(seen)
                    while kill < KILLS and len(seen) < before + 10:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                    if kill < KILLS:
                        owner.kill()
        deltas = await written(broker, catalogue.name("state-deltas"), catalogue.partitions)
        assert max(delta.epoch for found in deltas.values() for delta in found) == KILLS + 1
        assert len(seen) == (KILLS + 1) * SHARERS * 8 + CALLERS * 8
        for key in KEYS:
            mine = [entry for entry in seen if entry[2] == key]
            assert list(judge(key, mine, deltas[key], lambda delta: False, time.time())) == []
    finally:
        owner.end()
        names = [name for name in await broker.admin.list_topics() if name.startswith(f"{namespace}.")]
        await broker.admin.delete_topics(names)
        await broker.close()


class Owner:
    """The process that owns the shards; killed, it is started again."""

    def __init__(self, kafka: str, namespace: str) -> None:
        self._arguments = (kafka, namespace)
        self._start()

    def _start(self) -> None:
        self._process: Any = multiprocessing.get_context("spawn").Process(
            target=own_shards, args=self._arguments, daemon=True
        )
        self._process.start()

    def kill(self) -> None:
        self.end()
        self._start()

    def end(self) -> None:
        self._process.kill()
        self._process.join()


async def written(broker: Any, topic: str, partitions: int) -> dict[str, list[StateDelta]]:
    """Return all writes to shared records, by key."""
    found: dict[str, list[StateDelta]] = defaultdict(list)
    for number in range(partitions):
        records = [record async for batch in read_to_end(broker, [Partition(topic, number)]) for record in batch]
        for delta in shared_deltas_of(records):
            found[delta.owner.rpartition("/")[2]].append(delta)
    return found
