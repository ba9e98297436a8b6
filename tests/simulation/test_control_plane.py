"""The control plane on the simulated log: one writer, whoever sleeps, wakes or dies."""

import asyncio
from random import Random

import pytest

from streams.breakers import BreakerSettings, BreakerView
from streams.breakers.feed import breakers_table, partitions_of
from streams.broker.port import Message, Partition, TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.table import read_to_end
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.records import decode_as, encode
from streams.records.control import BackpressureSignal, BreakerState, OutcomeDigest
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run

CATALOGUE = Catalogue("ns", 1)
BREAKERS = BreakerSettings(window_calls=10, minimum_calls=5, open_s=5, jitter=0, probe_lease_s=2)
SETTINGS = ControlSettings(
    backpressure={"target_records": 5, "slow_records": 20, "close_records": 50, "least_records": 10, "dwell_s": 1},
)


class World:
    def __init__(self, seed: int) -> None:
        self.log = SimulatedLog(Random(seed))
        self.broker = SimulatedBroker(self.log, "test")
        specs = [TopicSpec(p.name, p.partitions, 1, p.config) for p in CATALOGUE.topics()]
        self.log.create_topics(specs)
        self.sequence = 0

    def controller(self, name: str) -> tuple[Process, ControlPlane]:
        process = Process(name)
        broker = SimulatedBroker(self.log, process)
        plane = ControlPlane(broker, CATALOGUE, SETTINGS, breakers=BREAKERS, now_ms=self.log.now_ms, rng=Random(name))
        return process, plane

    def digest(self, generation: str, **sums: object) -> bytes:
        self.sequence += 1
        fields: dict[str, object] = {"calls": 0, "failures": 0, "slow": 0} | sums
        now = self.log.now_ms()
        return encode(
            OutcomeDigest("shard-1", self.sequence, "tool:crm", now, now, generation=generation, **fields)  # type: ignore[arg-type]
        )

    async def history(self) -> list[BreakerState]:
        found = []
        async for batch in read_to_end(self.broker, partitions_of(CATALOGUE, "breakers")):
            found += [decode_as(BreakerState, record.value or b"") for record in batch]
        return found


@pytest.mark.parametrize("seed", range(16))
def test_a_controller_that_was_thought_dead_changes_nothing_when_it_wakes(seed):
    async def scenario() -> None:
        world = World(seed)
        process, old = world.controller("old")
        await process.spawn(old.assign(frozenset({0})))
        await process.spawn(old.take(0, world.digest("0.0", calls=5, failures=5)))
        process.freeze()
        _, new = world.controller("new")
        await new.assign(frozenset({0}))
        await asyncio.sleep(4.5)
        await new.take(0, world.digest("1.1", short_circuited=1))
        await asyncio.sleep(0.5)
        await new.tick()
        process.thaw()
        await process.spawn(old.take(0, world.digest("1.1", short_circuited=1)))
        await process.spawn(old.tick())
        states = await world.history()
        assert [(s.epoch, s.number, s.phase) for s in states] == [(1, 1, "open"), (2, 1, "half-open")]
        assert states[-1].probe_holder == "shard-1"
        # It believes to be the owner still, so after a pause it takes the desk back; the group would have told it.
        await asyncio.sleep(4.1)
        await process.spawn(old.tick())
        await new.close()
        await process.spawn(old.close())
        states = await world.history()
        assert states[-1].epoch == 3
        assert [(s.epoch, s.number) for s in states] == sorted((s.epoch, s.number) for s in states)

    run(scenario(), seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_a_restart_goes_on_from_the_topic(seed):
    async def scenario() -> None:
        world = World(seed)
        _, first = world.controller("first")
        await first.assign(frozenset({0}))
        await first.take(0, world.digest("0.0", calls=5, failures=5))
        await first.close()
        _, second = world.controller("second")
        await second.assign(frozenset({0}))
        await second.tick()
        assert len(await world.history()) == 1
        await asyncio.sleep(5)
        await second.tick()
        await second.take(0, world.digest("2.1", probe="ok", calls=1))
        await second.close()
        assert [s.phase for s in await world.history()] == ["open", "half-open", "closed"]

    run(scenario(), seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_an_outage_of_the_log_is_survived(seed):
    async def scenario() -> None:
        world = World(seed)
        _, plane = world.controller("plane")
        await plane.assign(frozenset({0}))
        await plane.take(0, world.digest("0.0", calls=5, failures=5))
        world.log.outage(40)
        for _ in range(600):
            await plane.tick()
            await plane.sample()
            await asyncio.sleep(0.1)
        await plane.close()
        view = BreakerView()
        async with breakers_table(world.broker, CATALOGUE, view.apply, random=Random(1)) as table:
            await table.wait_loaded()
        state = view.get("tool:crm")
        assert state is not None
        assert state.phase == "half-open"
        assert state.probe_expires_ms > world.log.now_ms() - 1_000

    run(scenario(), seed=seed, max_time_s=3_000)


def test_a_spike_closes_the_lane_and_draining_opens_it():
    async def scenario() -> None:
        world = World(1)
        _, plane = world.controller("plane")
        await plane.assign(frozenset({0}))
        await plane.sample()
        invocations = Partition(CATALOGUE.name("invocations"), 0)
        async with world.broker.producer() as producer, world.broker.reader(group="ns-shards") as reader:
            await producer.send(*[Message(invocations.topic, b"k", b"v", 0) for _ in range(100)])
            for position in (0, 0, 60, 81, 95, 100):
                await reader.commit({invocations: position})
                await asyncio.sleep(2)
                await plane.sample()
        await plane.close()
        signals = []
        async for batch in read_to_end(world.broker, [Partition(CATALOGUE.name("backpressure"), 0)]):
            signals += [decode_as(BackpressureSignal, record.value or b"") for record in batch]
        assert [s.level for s in signals] == ["open", "closed", "closed", "closed", "closed", "slow", "open"]
        assert [s.lag_records for s in signals] == [0, 100, 100, 40, 19, 5, 0]
        assert signals[3].retry_after_s > 0
        assert signals[2].lag_s >= 2

    run(scenario())
