"""Clients that submit what the plan says, and again after a crash, until everything is answered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from streams.broker.simulated import Process, SimulatedBroker
from streams.client.client import Client
from streams.errors import BrokerError, ResultTimeout, StreamsError
from streams.settings import Settings
from tests.simulation.application import Ask, deploy
from tests.simulation.plan import Submission
from tests.simulation.sharing import call

if TYPE_CHECKING:
    from tests.simulation.world import World

RETRY_S = 0.3


@cache
def settings(partitions: int) -> Settings:
    """Return the settings of the clients; reading the environment is slow."""
    return Settings(namespace="sim", partitions=partitions)


class Callers:
    """What users do. Only what was answered survives the client process; the rest is done again by the next one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: set[tuple[int, str]] = set()
        self._ordered = 0
        self._orders_done = not world.plan.orders
        self._submitted: set[int] = set()

    def waiting(self) -> list[str]:
        """Return what is still to be answered."""
        world = self._world
        left = [s.id for n, s in enumerate(world.plan.submissions) if n not in world.answers]
        left += [sharing.token for sharing in world.plan.sharing if sharing.token not in world.shared_begun]
        return [f"{identity} is not answered" for identity in left] + ([] if self._orders_done else ["orders"])

    async def run(self, _: str | None, process: Process) -> None:
        """Be one client process."""
        world = self._world
        broker = SimulatedBroker(world.log, process)
        async with Client(
            deploy(newest=True), settings=settings(world.plan.partitions), broker=broker, now=world.now
        ) as client:
            async with asyncio.TaskGroup() as group:
                for number, submission in enumerate(world.plan.submissions):
                    if number not in world.answers:
                        group.create_task(self._until_answered(client, number, submission))
                for wanted in world.plan.sharing:
                    group.create_task(call(world, client, wanted))
            await asyncio.Event().wait()

    async def _until_answered(self, client: Client, number: int, submission: Submission) -> None:
        world = self._world
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, submission.at_s - loop.time()))
        while number not in world.answers:
            try:
                await self._once(client, number, submission)
            except (BrokerError, ResultTimeout):
                await asyncio.sleep(RETRY_S)

    async def _once(self, client: Client, number: int, submission: Submission) -> None:
        world = self._world
        agent = deploy(newest=True).latest(submission.agent)
        ask = Ask(key=submission.key, program=submission.program, tag=submission.tag)
        if number in self._submitted and world.random.random() < 0.5:
            handle = client.handle(submission.id)
        else:
            handle = await client.submit(
                agent,
                ask,
                idempotency_key=submission.idempotency_key,
                deadline=submission.deadline_s,
                not_before=datetime.fromtimestamp(world.now() + submission.delay_s, UTC)
                if submission.delay_s
                else None,
            )
            self._submitted.add(number)
        world.note(f"client submitted {submission.id} {submission.tag}")
        async with asyncio.TaskGroup() as group:
            chores = [
                group.create_task(self._signal(client, number, submission)),
                group.create_task(self._cancel(client, number, submission)),
            ]
            try:
                result = await handle.result(timeout=20.0)
            finally:
                for chore in chores:
                    chore.cancel()
        if result.status == "deferred":
            world.note(f"client was deferred: {submission.id}")
            await asyncio.sleep(result.retry_after_s)
            return
        world.answers[number] = result.record
        world.note(f"client got {submission.id}: {result.status} {result.error_type} {result.error_message[:90]}")

    async def _signal(self, client: Client, number: int, submission: Submission) -> None:
        world = self._world
        while submission.signals_after >= 0 and submission.signals_after not in world.answers:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        handle = client.handle(submission.id)
        for name, value, signal_id in submission.signals:
            for _ in range(world.random.choice((1, 1, 2))):
                while (number, signal_id) not in self._told or world.random.random() < 0.1:
                    try:
                        await handle.signal(name, value, signal_id=signal_id)
                        self._told.add((number, signal_id))
                    except BrokerError:
                        await asyncio.sleep(RETRY_S)

    async def _cancel(self, client: Client, number: int, submission: Submission) -> None:
        if not submission.cancel_at_s:
            return
        await asyncio.sleep(max(0.0, submission.cancel_at_s - asyncio.get_running_loop().time()))
        try:
            await client.handle(submission.id).cancel("tired of waiting")
        except BrokerError:
            pass  # a wish, not a promise

    async def operate(self) -> None:
        """Give the operators' orders, in a process that is not killed."""
        world = self._world
        if not world.plan.orders:
            return
        process = Process("operator")
        await process.spawn(self._operate(process))

    async def _operate(self, process: Process) -> None:
        world = self._world
        loop = asyncio.get_running_loop()
        broker = SimulatedBroker(world.log, process)
        orders = sorted(world.plan.orders)
        while self._ordered < len(orders):
            try:
                async with Client(
                    "sim", settings=settings(world.plan.partitions), broker=broker, now=world.now
                ) as client:
                    while self._ordered < len(orders):
                        at_s, action, target = orders[self._ordered]
                        await asyncio.sleep(max(0.0, at_s - loop.time()))
                        world.note(f"operator: {action} {target}")
                        try:
                            await client.order(action, target, reason="simulated", by="operator")
                        except (BrokerError, ResultTimeout) as error:
                            if action != "unpause":
                                self._ordered += 1
                            world.note(f"operator: {error}")
                            continue
                        except StreamsError as error:
                            world.note(f"operator is refused: {error}")
                        self._ordered += 1
            except BrokerError:
                await asyncio.sleep(RETRY_S)
        self._orders_done = True
