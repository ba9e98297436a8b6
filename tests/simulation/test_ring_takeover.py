"""Owners of one partition that crash, freeze and take over from each other: the log stays a gapless sequence.

The smallest program with the shape of a shard: own, fence, confirm, restore, then one transaction after the other over
a ring, ended by any error of the log. What it proves is the port: the ring's order, fencing, restore by position. Two
mutants show that the oracle sees what it should.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from streams.broker import Message, Partition, TopicSpec
from streams.broker.ring import OrderedRing
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.table import read_to_end
from streams.errors import BrokerError
from streams.testing.virtual_time import VirtualLoop

JOURNAL, OUT = Partition("journal", 0), Partition("out", 0)


class HastyRing(OrderedRing):
    """Mutant: commits without waiting for the commit before."""

    _last = property(lambda self: None, lambda self, _: None)


class Owner:
    """One process's share: takes the partition when it is given it, and counts on from what the journal says."""

    def __init__(self, log: SimulatedLog, process: Process, acknowledged: set[int], mutant: str) -> None:
        self._broker = SimulatedBroker(log, process)
        self._process = process
        self._acknowledged = acknowledged
        self._mutant = mutant
        self._random = log.random
        self._membership = self._broker.membership("shards", "owners")
        self._working: asyncio.Task[None] | None = None

    async def run(self) -> None:
        try:
            await self._membership.start(self)
        except BrokerError:
            self._process.kill()
        await asyncio.Event().wait()

    async def assigned(self, partitions: frozenset[int]) -> None:
        if partitions:
            self._working = asyncio.create_task(self._own())

    async def revoked(self, partitions: frozenset[int]) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])

    async def _own(self) -> None:
        try:
            await self._count_on()
        except BrokerError:
            # As the product does: an ambiguous or fenced commit ends the process, the log knows the rest.
            self._process.kill()

    async def _count_on(self) -> None:
        ring = self._broker.ring("shard-0")
        if self._mutant == "hasty commit":
            ring = HastyRing("shard-0", ring._producers)
        if self._mutant == "restore before fencing":
            number = await self._restore()
            await ring.start()
        else:
            await ring.start()
            await self._membership.confirm()
            number = await self._restore()
        try:
            async with asyncio.TaskGroup() as group:
                slots = asyncio.Semaphore(2)
                while True:
                    await slots.acquire()
                    group.create_task(self._write(ring, number, slots))
                    number += 1
                    await asyncio.sleep(self._random.random() * 0.05)
        except* BrokerError as errors:
            raise errors.exceptions[0] from None
        finally:
            await ring.close()

    async def _restore(self) -> int:
        # A journal of some size: what happens meanwhile is the point of fencing first.
        await asyncio.sleep(self._random.random() * 2)
        last = -1
        async for batch in read_to_end(self._broker, [JOURNAL]):
            last = int(batch[-1].value or b"")
        if self._mutant == "restore before fencing":
            await asyncio.sleep(self._random.random() * 2)
        return last + 1

    async def _write(self, ring: OrderedRing, number: int, slots: asyncio.Semaphore) -> None:
        value = b"%d" % number
        await ring.transact([Message(p.topic, b"cursor", value, partition=p.number) for p in (JOURNAL, OUT)])
        self._acknowledged.add(number)
        slots.release()


async def history(loop: VirtualLoop, mutant: str) -> tuple[list[int], set[int], int]:
    """Return what the log holds at the end, what was acknowledged, and how much was there when the faults ended."""
    random = loop.random
    log = SimulatedLog(random)
    log.create_topics([TopicSpec(name, 1) for name in ("owners", "journal", "out")])
    acknowledged: set[int] = set()
    processes: list[Process] = []

    def start() -> None:
        process = Process(f"owner-{len(processes)}")
        processes.append(process)
        if random.random() < 0.5 and len(processes) < 10:
            process.kill_after(random.randint(1, 600))
        process.spawn(Owner(log, process, acknowledged, mutant).run())

    async def supervise() -> None:
        while True:
            while sum(not process.dead for process in processes) < 3:
                start()
            await asyncio.sleep(random.random())

    supervising = asyncio.create_task(supervise())
    for _ in range(12):
        await asyncio.sleep(random.random() * 3)
        victim = random.choice(processes)
        match random.choice(["kill", "freeze", "nap", "nap", "thaw", "outage", "compact"]):
            case "kill":
                victim.kill()
            case "freeze":
                victim.freeze()
            case "nap":
                # Until about when its session has ended and its successor begins.
                victim.freeze()
                asyncio.get_running_loop().call_later(5 + random.random() * 5, victim.thaw)
            case "thaw":
                for process in processes:
                    process.thaw()
            case "outage":
                log.outage(random.random() * 12)
            case "compact":
                log.compact("journal")
    for process in processes:
        process.thaw()
        process.fuse = -1
    await asyncio.sleep(40)
    before = len(log.records("out"))
    await asyncio.sleep(10)
    supervising.cancel()
    return [int(record.value or b"") for record in log.records("out")], acknowledged, before


def problems(seed: int, mutant: str = "") -> list[str]:
    loop = VirtualLoop(seed)
    try:
        found, acknowledged, before = loop.run_until_complete(history(loop, mutant))
    finally:
        loop.finish()
    wrong = []
    if found != list(range(len(found))):
        wrong.append(f"seed {seed}: not gapless: {_around(found)}")
    if missing := sorted(acknowledged - set(found)):
        wrong.append(f"seed {seed}: acknowledged but missing: {missing[:10]}")
    if len(found) <= before:
        wrong.append(f"seed {seed}: nothing more was written after the faults had ended")
    return wrong


def _around(found: Sequence[int]) -> list[int]:
    at = next(index for index, number in enumerate(found) if index != number)
    return list(found[max(at - 3, 0) : at + 5])


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_takeovers_leave_a_gapless_sequence(first: int) -> None:
    assert [line for seed in range(first, first + 20) for line in problems(seed)] == []


@pytest.mark.parametrize("mutant", ["hasty commit", "restore before fencing"])
def test_the_oracle_finds_a_mutant(mutant: str) -> None:
    assert any(problems(seed, mutant) for seed in range(200))


def test_a_seed_gives_the_same_history_again() -> None:
    def once() -> tuple[int, int]:
        loop = VirtualLoop(11)
        loop.run_until_complete(history(loop, ""))
        loop.finish()
        return loop.steps, loop.fingerprint

    assert once() == once()
