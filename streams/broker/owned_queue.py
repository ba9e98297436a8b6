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
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from streams.broker.dead_letters import dead_letter_message
from streams.broker.port import Broker, LogRecord, Message, Partition, Producer, Reader
from streams.broker.retention import delete_consumed
from streams.broker.watermark import Watermark
from streams.errors import BrokerError, CodecError, CommitAmbiguous, StreamsError, UnknownSchema
from streams.records.load import Load

log = logging.getLogger(__name__)

CLOCK_SKEW_MS = 60_000
"""Results are looked for from this long before the first open call: stamps of different machines differ."""

COMMIT_INTERVAL_S = 0.5
TRIM_INTERVAL_S = 3_600.0
RETRY_S = 1.0
MAX_RETRY_S = 15.0


class Session(Protocol):
    """What a role does with the calls of one partition while it owns it."""

    def answered(self, result: LogRecord) -> None:
        """Take note of a result that exists already."""
        ...

    async def handle(self, record: LogRecord) -> Message | None:
        """Work on one call and return the message that answers it, None where nothing must be written.

        Called concurrently. What it raises ends the session, so it answers failures of the work as results.
        """
        ...


class Opener(Protocol):
    """Makes the session of a partition."""

    def __call__(self, partition: int) -> AbstractAsyncContextManager[Session]: ...


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """What is read and written.

    Attributes:
        role: Group names are `<namespace>-<role>` (positions) and `<namespace>-<role>-owners`.
        calls: Topics of calls: the base topic and its lanes.
        results: Topic of their results.
        history_s: Seconds for which calls are kept after they were answered.
        max_open: Calls of a partition that are worked on or wait for a place; beyond it nothing more is read.
    """

    namespace: str
    role: str
    anchor: str
    calls: tuple[str, ...]
    results: str
    dead_letters: str
    history_s: float
    max_open: int = 1_000


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
        self._partitions: dict[int, _Partition] = {}
        self._producer: Producer | None = None

    @property
    def open_calls(self) -> int:
        """Calls being worked on or waiting for a place in this process."""
        return sum(len(mark) for partition in self._partitions.values() for mark in partition.marks.values())

    @property
    def working(self) -> frozenset[int]:
        """Partitions whose calls are being read."""
        return frozenset(number for number, partition in self._partitions.items() if partition.ready)

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
                partition.stopping.set()
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
            partition = self._partitions[number] = _Partition(
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


class _Partition:
    """The calls of one partition number, from taking it over to letting it go."""

    def __init__(
        self,
        broker: Broker,
        plan: QueuePlan,
        number: int,
        producer: Producer,
        drain_s: float,
        count_set_aside: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self.stopping = asyncio.Event()
        self.ready = False
        self.marks: dict[Partition, Watermark] = {}
        self._broker = broker
        self._plan = plan
        self._number = number
        self._producer = producer
        self._drain_s = drain_s
        self._count_set_aside = count_set_aside
        self._now = now
        self._group = f"{plan.namespace}-{plan.role}"
        self._sources = tuple(Partition(topic, number) for topic in plan.calls)
        self._outbox: list[tuple[Partition, int, Message | None]] = []
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._open = 0

    async def work(self, session: Session) -> None:
        positions = await self._positions()
        await self._read_answers(session, positions)
        self.marks = {source: Watermark(position) for source, position in positions.items()}
        async with self._broker.reader(group=self._group) as reader:
            await reader.assign(positions)
            self.ready = True
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._answer_for_ever()),
                    group.create_task(self._commit_for_ever(reader)),
                    group.create_task(self._trim_for_ever()),
                ]
                calls: set[asyncio.Task[None]] = set()
                await self._read_until_stopped(reader, session, group, calls)
                if calls:
                    await asyncio.wait(calls, timeout=self._drain_s)
                await self._emptied()
                for task in (*calls, *helpers):
                    task.cancel()
            await self._commit(reader)

    async def _positions(self) -> dict[Partition, int]:
        begins = await self._broker.admin.begin_offsets(self._sources)
        committed = await self._broker.admin.group_offsets(self._group, self._sources)
        return {source: max(begins[source], committed.get(source, 0)) for source in self._sources}

    async def _read_answers(self, session: Session, positions: dict[Partition, int]) -> None:
        """Tell the session which calls beyond the positions have a result."""
        oldest = await self._oldest_open(positions)
        if oldest is None:
            return
        results = Partition(self._plan.results, self._number)
        start = (await self._broker.admin.offsets_at({results: oldest - CLOCK_SKEW_MS}))[results]
        async for batch in _read_from(self._broker, results, start):
            for record in batch:
                session.answered(record)

    async def _oldest_open(self, positions: dict[Partition, int]) -> int | None:
        """Return the stamp of the oldest call beyond the positions, None where there is none."""
        ends = await self._broker.admin.end_offsets(self._sources)
        waiting = {source: position for source, position in positions.items() if position < ends[source]}
        stamps = []
        async with self._broker.reader() as reader:
            for source, position in waiting.items():
                await reader.assign({source: position})
                while await reader.position(source) < ends[source]:
                    batch = await reader.poll(max_records=1, timeout_s=0.2)
                    if batch:
                        stamps.append(batch[source][0].timestamp_ms)
                        break
        return min(stamps, default=None)

    async def _read_until_stopped(
        self, reader: Reader, session: Session, group: asyncio.TaskGroup, calls: set[asyncio.Task[None]]
    ) -> None:
        while not self.stopping.is_set():
            room = self._plan.max_open - self._open
            if room <= 0:
                self._room.clear()
                await _first_of(self._room, self.stopping)
                continue
            batch = await reader.poll(self._sources, max_records=room, timeout_s=0.5)
            if not batch:
                await self._pass_markers(reader)
            for source, records in batch.items():
                for record in records:
                    self.marks[source].take(record.offset)
                    self._open += 1
                    task = group.create_task(self._handle(session, source, record))
                    calls.add(task)
                    task.add_done_callback(calls.discard)

    async def _pass_markers(self, reader: Reader) -> None:
        """Move past transaction markers at the end of the log; here, where no poll can be under way."""
        for source, mark in self.marks.items():
            mark.advance(await reader.position(source))

    async def _handle(self, session: Session, source: Partition, record: LogRecord) -> None:
        try:
            answer = await session.handle(record)
        except UnknownSchema:
            raise
        except CodecError as error:
            self._count_set_aside()
            answer = dead_letter_message(self._plan.dead_letters, record, error, f"{self._plan.role} {self._number}")
        self._outbox.append((source, record.offset, answer))
        self._filled.set()

    async def _answer_for_ever(self) -> None:
        """Write results; those that come while one batch is being acknowledged are the next batch."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            batch, self._outbox = self._outbox, []
            messages = [message for _, _, message in batch if message is not None]
            if messages:
                await self._producer.send(*messages)
            for source, offset, _ in batch:
                self.marks[source].finish(offset)
            self._open -= len(batch)
            self._room.set()

    async def _emptied(self) -> None:
        for _ in range(200):
            if not self._outbox and all(len(mark) == 0 for mark in self.marks.values()):
                return
            if not self._filled.is_set() and not self._outbox:
                return
            await asyncio.sleep(0.01)

    async def _commit_for_ever(self, reader: Reader) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit(reader)

    async def _trim_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TRIM_INTERVAL_S)
            positions = {source: mark.position for source, mark in self.marks.items()}
            try:
                horizon_ms = int((self._now() - self._plan.history_s) * 1000)
                await delete_consumed(self._broker.admin, positions, horizon_ms)
            except BrokerError as error:
                log.warning("%s %d could not delete answered calls: %s", self._plan.role, self._number, error)

    async def _commit(self, reader: Reader) -> None:
        at_ms = int(self._now() * 1000)
        notes = {s: Load(at_ms, mark.unfinished, read=mark.read).note() for s, mark in self.marks.items()}
        try:
            await reader.commit({source: mark.position for source, mark in self.marks.items()}, notes)
        except BrokerError as error:
            log.warning("%s %d could not commit its position: %s", self._plan.role, self._number, error)


async def _read_from(broker: Broker, source: Partition, start: int) -> AsyncIterator[list[LogRecord]]:
    end = (await broker.admin.end_offsets([source]))[source]
    async with broker.reader() as reader:
        await reader.assign({source: start})
        while await reader.position(source) < end:
            for records in (await reader.poll(max_records=5_000, timeout_s=0.2)).values():
                yield records


async def _first_of(*waited: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in waited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
