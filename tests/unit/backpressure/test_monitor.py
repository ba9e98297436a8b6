"""What is measured from the log alone, whoever is dead, paused or was never there. On the simulated log."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from streams.backpressure import LagMonitor, LagReport, PartitionLag
from streams.backpressure.stages import stages_of
from streams.broker.port import Message, Partition, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.errors import BrokerUnavailable
from streams.records.load import Load, Queue
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run

CATALOGUE = Catalogue("ns", 2, lanes={"invocations": ("bulk",), "llm-requests": ("fast",)})


class World:
    def __init__(self, **options: Any) -> None:
        self.log = SimulatedLog(Random(1))
        self.log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in CATALOGUE.topics()])
        self.broker = SimulatedBroker(self.log)
        self.monitor = LagMonitor(self.broker, CATALOGUE, now_ms=self.log.now_ms, **options)

    def write(self, kind: str, *keys: str, lane: str = "", number: int = 0) -> None:
        self.log.write([Message(CATALOGUE.name(kind, lane), key.encode(), b"v", number) for key in keys])

    async def commit(self, group: str, kind: str, position: int, load: Load | None = None, number: int = 0) -> None:
        partition = Partition(CATALOGUE.name(kind), number)
        async with self.broker.reader(group=f"ns-{group}") as reader:
            await reader.commit({partition: position}, {partition: load.note()} if load else {})


def of(report: LagReport, stage: str, number: int = 0) -> PartitionLag:
    return next(found for found in report.stages if found.name == stage).partitions[number]


def world_runs(scenario: Coroutine[Any, Any, None]) -> None:
    run(scenario, max_time_s=600)


def test_every_topic_in_which_work_waits_is_a_stage():
    assert [(stage.name, stage.group) for stage in stages_of(CATALOGUE)] == [
        ("invocations", "ns-shards"),
        ("invocations.bulk", "ns-shards"),
        ("tool-calls", "ns-tools"),
        ("tool-overflow", "ns-tools"),
        ("llm-requests", "ns-llm"),
        ("llm-requests.fast", "ns-llm"),
        ("state-deltas", "ns-memory-sink"),
        ("results", "ns-memory-sink"),
    ]


def test_a_partition_that_nobody_ever_read_has_lag_in_records_and_seconds():
    async def scenario() -> None:
        world = World()
        world.write("invocations", "a/1", "a/2")
        await asyncio.sleep(30)
        report = await world.monitor.sample()
        assert of(report, "invocations").unread == 2
        assert of(report, "invocations").lag_s == pytest.approx(30, abs=0.1)
        assert (of(report, "invocations", 1).unread, of(report, "invocations", 1).lag_s) == (0, 0.0)
        assert not report.stages[0].consumed

    world_runs(scenario())


def test_a_consumer_that_died_long_ago_has_the_age_of_what_it_did_not_read():
    async def scenario() -> None:
        world = World()
        for key in ("a/1", "a/2", "a/3"):
            world.write("llm-requests", key)
            await asyncio.sleep(10)
        await world.commit("llm", "llm-requests", 1)
        report = await world.monitor.sample()
        assert of(report, "llm-requests").lag_s == pytest.approx(20, abs=0.1)
        # Its first record is not the one that a position above it points to.
        await asyncio.sleep(5)
        assert of(await world.monitor.sample(), "llm-requests").lag_s == pytest.approx(25, abs=0.1)
        await world.commit("llm", "llm-requests", 2)
        assert of(await world.monitor.sample(), "llm-requests").lag_s == pytest.approx(15, abs=0.1)

    world_runs(scenario())


def test_rates_and_open_work_come_from_the_consumers_notes():
    async def scenario() -> None:
        world = World(least_records=2)
        for second in range(10):
            world.write("invocations", *[f"a/{n}" for n in range(50)])
            now = world.log.now_ms()
            await world.commit("shards", "invocations", 30 * second, Load(now, 4, 3, 2, 1))
            report = await world.monitor.sample()
            await asyncio.sleep(1)
        lag = of(report, "invocations")
        assert lag.arrival_per_s == pytest.approx(50, rel=0.05)
        assert lag.drain_per_s == pytest.approx(30, rel=0.05)
        assert lag.capacity_per_s == pytest.approx(30, rel=0.05)
        assert (lag.unread, lag.backlog, lag.load.resting, lag.load.parked) == (230, 237, 2, 1)

    world_runs(scenario())


def test_queues_by_agent_are_those_unread_and_those_in_mailboxes():
    async def scenario() -> None:
        world = World()
        world.write("invocations", "dispute/1", "support/1", "dispute/2")
        world.write("invocations", "dispute/3", lane="bulk", number=1)
        first_ms = world.log.now_ms()
        load = Load(first_ms, queued=5, queues={"dispute": Queue(5, first_ms - 60_000)})
        await world.commit("shards", "invocations", 1, load)
        await asyncio.sleep(20)
        report = await world.monitor.sample()
        assert {name: queue.depth for name, queue in report.queues.items()} == {"dispute": 7, "support": 1}
        assert report.oldest_s("dispute") == pytest.approx(80, abs=0.1)
        assert report.oldest_s("support") == pytest.approx(20, abs=0.1)
        assert (report.oldest_s("nobody"), report.uncounted) == (0.0, 0)

    world_runs(scenario())


def test_what_is_not_committed_yet_is_lag_but_in_nobodys_queue():
    async def scenario() -> None:
        world = World()
        world.log.start_producer("writer", 60)
        world.log.write_transaction("writer", 0, [Message("ns.invocations", b"a/1", b"v", 0)])
        report = await world.monitor.sample()
        assert (of(report, "invocations").unread, report.queues, report.uncounted) == (1, {}, 1)

    world_runs(scenario())


def test_a_position_that_retention_has_passed_is_lag_and_no_failure():
    async def scenario() -> None:
        world = World()
        world.write("invocations", *["a/1"] * 10)
        await world.commit("shards", "invocations", 2)
        await world.broker.admin.delete_records({Partition("ns.invocations", 0): 6})
        assert of(await world.monitor.sample(), "invocations").unread == 8

    world_runs(scenario())


def test_a_log_that_does_not_answer_is_said():
    async def scenario() -> None:
        world = World()
        world.log.outage(300)
        with pytest.raises(BrokerUnavailable):
            await world.monitor.sample()

    world_runs(scenario())
