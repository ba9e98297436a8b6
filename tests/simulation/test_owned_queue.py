"""A queue of calls on the simulated log: who works a partition, and who only believes that it is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from streams.broker.owned_queue import OwnedQueue, QueuePlan, Session
from streams.broker.port import LogRecord, Message, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.errors import Fenced, OwnershipLost
from streams.testing.virtual_time import run

PLAN = QueuePlan("ns", "role", "owners", ("calls",), "results", "dead-letters", history_s=60)


class Sessions:
    """Counts the sessions that are opened; each ends as one of a fenced owner does."""

    def __init__(self) -> None:
        self.opened = 0
        self.open_now = 0

    def answered(self, result: LogRecord) -> None: ...

    async def handle(self, record: LogRecord) -> Message | None:
        raise Fenced("another owner has started")

    @asynccontextmanager
    async def open(self, partition: int) -> AsyncIterator[Session]:
        self.opened += 1
        self.open_now += 1
        try:
            yield self
        finally:
            self.open_now -= 1


class World:
    def __init__(self) -> None:
        self.log = SimulatedLog(Random(1))
        self.log.create_topics([TopicSpec(name, 1) for name in ("owners", "calls", "results", "dead-letters")])
        self.broker = SimulatedBroker(self.log, "worker")
        self.sessions = Sessions()
        self.queue = OwnedQueue(self.broker, PLAN, self.sessions.open)


def test_a_fenced_owner_does_not_start_over_before_its_ownership_is_confirmed() -> None:
    async def scenario() -> None:
        world = World()
        confirmed = asyncio.Event()
        asked = 0

        async def confirm() -> None:
            nonlocal asked
            asked += 1
            if asked > 1 and not confirmed.is_set():
                raise OwnershipLost("the group has moved on")

        world.queue._membership.confirm = confirm  # type: ignore[method-assign]
        working = asyncio.ensure_future(world.queue.run())
        async with world.broker.producer() as producer:
            await producer.send(Message("calls", b"k", b"call"))
        await asyncio.sleep(30)
        assert (world.sessions.opened, world.sessions.open_now) == (1, 0)
        assert asked > 2
        confirmed.set()
        await asyncio.sleep(30)
        assert world.sessions.opened > 1
        working.cancel()
        await asyncio.wait([working])

    run(scenario())


def test_who_waits_to_start_over_lets_go_at_once() -> None:
    async def scenario() -> None:
        world = World()
        working = asyncio.ensure_future(world.queue.run())
        async with world.broker.producer() as producer:
            await producer.send(Message("calls", b"k", b"call"))
        await asyncio.sleep(5)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await world.queue.revoked(frozenset({0}))
        assert loop.time() - began < 0.1
        working.cancel()
        await asyncio.wait([working])

    run(scenario())
