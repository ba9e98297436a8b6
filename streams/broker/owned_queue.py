"""A queue of calls worked by the owner of each partition: out of order, committed contiguously, answered once.

The tool worker and the LLM dispatcher are both this: they own partition numbers through the anchor topic, read calls
from the committed position, work on many at a time, write one result for each, and commit the highest contiguous
finished offset. After a restart the owner first reads which calls were answered beyond that position and skips them, so
that nobody pays twice for a call because an earlier one was still going on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from streams.broker.owned_partition import OwnedPartition
from streams.broker.port import Broker, Producer
from streams.broker.queue_plan import Opener, QueuePlan, Session, SharingSession
from streams.errors import CommitAmbiguous, StreamsError

__all__ = ["Opener", "OwnedQueue", "QueuePlan", "Session", "SharingSession"]

log = logging.getLogger(__name__)

RETRY_S = 1.0
MAX_RETRY_S = 15.0


class OwnedQueue:
    """Works the partitions that the group gives this process, until cancelled.

    Attributes:
        set_aside: Calls that could not be read and went to dead-letters.
    """

    def __init__(
        self,
        broker: Broker,
        plan: QueuePlan,
        opener: Opener,
        *,
        instance_id: str | None = None,
        drain_s: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._plan = plan
        self._opener = opener
        self._drain_s = drain_s
        self.set_aside = 0
        self._now = now
        self._membership = broker.membership(
            f"{plan.namespace}-{plan.role}-owners", plan.anchor, instance_id=instance_id
        )
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._partitions: dict[int, OwnedPartition] = {}
        self._producer: Producer | None = None

    @property
    def open_calls(self) -> int:
        """Calls being worked on or waiting for a place in this process."""
        return sum(partition.open for partition in self._partitions.values())

    @property
    def overflowed(self) -> int:
        """Calls that wait in the overflow lanes of this process's partitions."""
        return sum(partition.overflowed for partition in self._partitions.values())

    @property
    def working(self) -> frozenset[int]:
        """Partitions whose calls are being read."""
        return frozenset(number for number, partition in self._partitions.items() if partition.ready)

    async def confirm(self) -> None:
        """Prove that this process still owns what it works on.

        Raises:
            OwnershipLost: It does not.
        """
        await self._membership.confirm()

    async def run(self) -> None:
        """Join the group and work until cancelled."""
        async with self._broker.producer() as producer:
            self._producer = producer
            try:
                await self._membership.start(self)
                await asyncio.Event().wait()
            finally:
                await self._membership.leave()
                await self._stop(frozenset(self._tasks))

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Start on the partitions that are new here, stop those that are gone."""
        await self._stop(frozenset(self._tasks) - partitions)
        for number in sorted(partitions - self._tasks.keys()):
            self._tasks[number] = asyncio.create_task(self._own(number), name=f"{self._plan.role} {number}")

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Give calls that are being worked on a moment, commit what is finished, let go."""
        await self._stop(partitions)

    async def _stop(self, numbers: frozenset[int]) -> None:
        tasks = {n: self._tasks.pop(n) for n in numbers if n in self._tasks}
        if not tasks:
            return
        for number, task in tasks.items():
            partition = self._partitions.get(number)
            if partition is not None and partition.ready:
                partition.stop()
            else:
                task.cancel()  # it is still taking over, or waits to start over: there is nothing to finish
        await asyncio.wait(tasks.values(), timeout=self._drain_s + 1.0)
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values(), timeout=2.0)

    def _count_set_aside(self) -> None:
        self.set_aside += 1

    async def _own(self, number: int) -> None:
        delay, loop = RETRY_S, asyncio.get_running_loop()
        assert self._producer is not None
        while True:
            began = loop.time()
            partition = self._partitions[number] = OwnedPartition(
                self._broker,
                self._plan,
                number,
                self._producer,
                self._drain_s,
                self._count_set_aside,
                self._now,
            )
            try:
                # A process that was frozen learns late that its partitions have another owner. Without this it would
                # start over by fencing that owner, and work on what that owner works on.
                await self._membership.confirm()
                async with self._opener(number) as session:
                    await partition.work(session)
                return
            except* CommitAmbiguous as errors:
                # Only claims are transactional here; the next session reads what became of this one.
                log.error("%s %d starts over: %s", self._plan.role, number, errors.exceptions[0])
            except* StreamsError as errors:
                log.error(
                    "%s %d waits %.0f s and starts over: %s", self._plan.role, number, delay, errors.exceptions[0]
                )
            except* Exception:
                log.exception("%s %d waits %.0f s and starts over", self._plan.role, number, delay)
            finally:
                self._partitions.pop(number, None)
            if loop.time() - began > MAX_RETRY_S:
                delay = RETRY_S
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_RETRY_S)
