"""The control role in Faust on a real Kafka: what one process sees, the fleet knows; what the topic holds survives."""

import asyncio
import random
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from streams.backpressure import BackpressurePolicy, Gate
from streams.breakers import Admitted, BreakerSettings, BreakerView, Guard
from streams.breakers.feed import breakers_table, partitions_of
from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker, Message, Partition, TopicSpec
from streams.broker.table import Table, read_to_end
from streams.control.role import ControlRole
from streams.control.settings import ControlSettings
from streams.errors import PrerequisiteMissing, TopicError
from streams.records import decode_as, encode
from streams.records.control import BreakerState
from streams.records.topics import Catalogue
from tests.bench.fleet import stopped_controller

pytest.importorskip("faust")

POLICY = BreakerSettings(open_s=1.0, jitter=0, probe_lease_s=2.0)
SETTINGS = ControlSettings(
    backpressure=BackpressurePolicy(
        target_records=10, slow_records=50, close_records=200, least_records=10, dwell_s=0.5
    ),
    sample_s=0.2,
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class World:
    def __init__(self, kafka: str) -> None:
        self.settings = KafkaSettings(bootstrap_servers=kafka)
        self.broker: Broker = KafkaBroker(self.settings)
        self.catalogue = Catalogue(f"ctl-{uuid.uuid4().hex[:8]}", 2)
        self.view = BreakerView()
        self.gate = Gate(random.random, lambda _: None)

    def role(self) -> ControlRole:
        return ControlRole(self.broker, self.catalogue, SETTINGS, self.settings, breakers=POLICY)

    def guard(self, reporter: str = "worker-1") -> Guard:
        return Guard("tool:crm", POLICY, reporter, random.random)

    async def report(self, guard: Guard | BreakerView) -> None:
        topic = self.catalogue.name("outcomes")
        messages = [Message(topic, d.dependency.encode(), encode(d)) for d in guard.drain(now_ms())]
        async with self.broker.producer() as producer:
            await producer.send(*messages)

    async def phase(self, *wanted: str, within_s: float = 20.0) -> BreakerState:
        def reached() -> bool:
            state = self.view.get("tool:crm")
            return state is not None and state.phase in wanted

        await eventually(reached, within_s=within_s)
        state = self.view.get("tool:crm")
        assert state is not None
        return state

    async def history(self) -> list[BreakerState]:
        found = []
        async for batch in read_to_end(self.broker, partitions_of(self.catalogue, "breakers")):
            found += [decode_as(BreakerState, record.value or b"") for record in batch]
        return found


@asynccontextmanager
async def world(kafka: str) -> AsyncIterator[World]:
    it = World(kafka)
    plans = it.catalogue.topics()
    await it.broker.admin.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in plans])
    signals = Table(it.broker, partitions_of(it.catalogue, "backpressure"))
    signals.on_record(lambda record: it.gate.put(record.key or b"", record.value))
    try:
        async with breakers_table(it.broker, it.catalogue, it.view.apply), signals:
            yield it
    finally:
        await it.broker.close()


@asynccontextmanager
async def running(it: World) -> AsyncIterator[None]:
    """A control role that has begun to publish: it has its partitions."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(it.role().run())
        try:
            await eventually(lambda: it.gate.signal("invocations", now_ms()) is not None)
            yield
        finally:
            task.cancel()


async def eventually(check: Callable[[], bool], *, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


def failing(guard: Guard, calls: int = 10) -> None:
    for _ in range(calls):
        admitted = guard.admit(now_ms())
        assert isinstance(admitted, Admitted)
        guard.record(admitted, True, 0.01, now_ms(), "TimeoutError")


async def test_what_one_worker_saw_opens_the_fleet_and_one_probe_closes_it(kafka):
    async with world(kafka) as it, running(it):
        guard = it.guard()
        failing(guard)
        await it.report(guard)
        opened = await it.phase("open")
        assert opened.reason == "10 of 10 calls failed (failure_rate 0.5)"
        assert it.view.refuses("tool:crm", now_ms()) == opened.reason

        assert not isinstance(it.view.admit("tool:crm", "shard-1", now_ms()), str)
        await it.report(it.view)
        lease = await it.phase("half-open")
        assert lease.probe_holder == "shard-1"
        stamps = [it.view.admit("tool:crm", "shard-1", now_ms()) for _ in range(3)]
        assert [type(stamp) is str for stamp in stamps] == [True, False, False]
        probe = guard.admit(now_ms(), str(stamps[0]))
        assert isinstance(probe, Admitted)
        guard.record(probe, False, 0.01, now_ms())
        await it.report(guard)
        assert (await it.phase("closed")).reason == "the probe succeeded"


async def test_a_restart_of_the_control_plane_forgets_nothing_that_is_in_the_topic(kafka):
    async with world(kafka) as it:
        async with running(it):
            guard = it.guard()
            failing(guard)
            await it.report(guard)
            before = await it.phase("open")
        it.gate.put(b"invocations", None)
        async with running(it):
            after = await it.phase("half-open")
        assert (after.epoch, after.number, after.openings) == (before.epoch + 1, 1, before.openings)


async def test_a_controller_that_is_stopped_and_wakes_changes_nothing(kafka):
    figures = await stopped_controller(kafka)
    assert figures["writes_out_of_order"] == 0
    assert figures["probes"] == figures["leases"] >= 1


async def test_a_backlog_closes_the_lane_and_draining_opens_it(kafka):
    async with world(kafka) as it, running(it):
        topic = it.catalogue.name("invocations")
        lane = [Partition(topic, number) for number in range(2)]
        async with (
            it.broker.producer() as producer,
            it.broker.reader(group=f"{it.catalogue.namespace}-shards") as reader,
        ):
            await reader.assign(dict.fromkeys(lane, 0))
            assert it.gate.check("invocations", "normal", now_ms()) is None
            for p in lane:
                await producer.send(*[Message(topic, b"k", b"v", p.number) for _ in range(150)])
            await eventually(lambda: it.gate.check("invocations", "normal", now_ms()) is not None)
            signal_ = it.gate.signal("invocations", now_ms())
            assert signal_ is not None
            assert (signal_.level, signal_.lag_records) == ("closed", 300)
            await reader.commit(dict.fromkeys(lane, 150))
            await eventually(lambda: it.gate.check("invocations", "low", now_ms()) is None)


async def test_nothing_is_left_where_the_process_runs(kafka, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with world(kafka) as it, running(it):
        assert [path.name.startswith("streams-control-") for path in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == []


async def test_missing_topics_are_named(kafka):
    it = World(kafka)
    with pytest.raises(
        TopicError,
        match=rf"{it.catalogue.namespace}.backpressure, .*outcomes, .* do not exist .* `streams topics create`",
    ):
        await it.role().run()
    await it.broker.close()


async def test_without_faust_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faust", None)
    monkeypatch.delitem(sys.modules, "streams.control.faust_app", raising=False)
    with pytest.raises(PrerequisiteMissing, match=r"install 'agent-streams\[control\]'"):
        await World("127.0.0.1:1").role().run()
