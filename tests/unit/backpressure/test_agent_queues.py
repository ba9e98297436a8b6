"""Depth and oldest age of each agent's queue, on the simulated log."""

import asyncio
from random import Random

from streams.backpressure.agent_queues import MOST_AGENTS, AgentQueues, PartitionQueues
from streams.broker.port import Message, Partition, Skimmed, SkimmedRecord, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.records.load import OTHERS, Queue
from streams.testing.virtual_time import run

P0, P1 = Partition("ns.invocations", 0), Partition("ns.invocations", 1)


def record(offset: int, key: str, priority: bytes | None = None) -> SkimmedRecord:
    return offset, 1_000 + offset, key.encode(), priority


def taken(*records: SkimmedRecord) -> PartitionQueues:
    queues = PartitionQueues(0)
    queues.take(Skimmed(records[-1][0] + 1, records))
    return queues


def test_records_are_counted_by_the_agent_in_their_key():
    queues = taken(record(0, "dispute/c-1"), record(1, "support/x/y"), record(2, "dispute/c-2"), record(5, "odd"))
    assert dict(queues.queues()) == {"dispute": Queue(2, 1_000), "support": Queue(1, 1_001), "odd": Queue(1, 1_005)}
    assert (queues.kept, queues.next) == (4, 6)


def test_a_position_that_moves_on_forgets_what_is_below():
    queues = taken(*[record(n, f"a{n % 3}/k") for n in range(30)])
    queues.pass_(10)
    assert dict(queues.queues()) == {"a0": Queue(6, 1_012), "a1": Queue(7, 1_010), "a2": Queue(7, 1_011)}
    queues.pass_(30)
    assert (dict(queues.queues()), queues.kept) == ({}, 0)


def test_memory_goes_with_what_is_read():
    queues = PartitionQueues(0)
    for start in range(0, 200_000, 1_000):
        queues.take(Skimmed(start + 1_000, [record(n, "a/k") for n in range(start, start + 1_000)]))
        queues.pass_(start + 900)
    (line,) = queues._lines.values()
    assert len(line.offsets) < 10_000
    assert queues.kept == 100


def test_priorities_are_counted():
    assert taken(record(0, "a/1", b"low"), record(1, "a/1", b"high"), record(2, "a/1")).low == 1


def test_agents_that_anybody_invents_are_summed_up():
    queues = taken(*[record(n, f"agent-{n}/k") for n in range(MOST_AGENTS + 50)])
    found = dict(queues.queues())
    assert len(found) == MOST_AGENTS + 1
    assert found[OTHERS] == Queue(50, 1_000 + MOST_AGENTS)


class World:
    def __init__(self) -> None:
        self.log = SimulatedLog(Random(1))
        self.log.create_topics([TopicSpec("ns.invocations", 2)])
        self.broker = SimulatedBroker(self.log)

    def write(self, partition: int, *agents: str) -> None:
        self.log.write([Message("ns.invocations", f"{agent}/k".encode(), b"v", partition) for agent in agents])

    async def follow(self, queues: AgentQueues, first: int, second: int, budget_s: float = 5.0) -> dict[str, int]:
        ends = await self.broker.admin.end_offsets([P0, P1])
        await queues.follow({P0: first, P1: second}, ends, budget_s=budget_s)
        return {name: queue.depth for name, queue in queues.queues().items()}


def test_partitions_are_followed_between_position_and_end():
    async def scenario() -> None:
        world = World()
        queues = AgentQueues(world.broker.admin, [P0, P1])
        assert await world.follow(queues, 0, 0) == {}
        world.write(0, "a", "b", "a")
        world.write(1, "a")
        assert await world.follow(queues, 0, 0) == {"a": 3, "b": 1}
        world.write(1, "b", "b")
        assert await world.follow(queues, 2, 1) == {"a": 1, "b": 2}
        # A consumer that was quicker than the meter, and one that starts over.
        world.write(0, *["c"] * 50)
        assert await world.follow(queues, 50, 1) == {"b": 2, "c": 3}
        assert await world.follow(queues, 0, 3) == {"a": 2, "b": 1, "c": 50}
        assert queues.uncounted == 0

    run(scenario())


def test_records_that_nobody_may_read_are_not_counted():
    async def scenario() -> None:
        world = World()
        ring = world.broker.ring("writer")
        await ring.start()
        await ring.transact([Message("ns.invocations", b"a/k", b"v", 0)])
        queues = AgentQueues(world.broker.admin, [P0, P1])
        assert await world.follow(queues, 0, 0) == {"a": 1}  # and its marker is none
        assert queues.uncounted == 0
        await ring.close()

    run(scenario())


def test_what_it_had_no_time_for_is_said():
    async def scenario() -> None:
        world = World()
        queues = AgentQueues(world.broker.admin, [P0, P1])
        world.write(0, *["a"] * 30_000)
        await world.follow(queues, 0, 0, budget_s=0.0)
        assert queues.uncounted == 30_000
        while queues.uncounted:
            await world.follow(queues, 0, 0)
            await asyncio.sleep(1)
        assert queues.queues()["a"].depth == 30_000

    run(scenario())
