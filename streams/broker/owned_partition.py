"""The calls of one partition while this process owns it: read, worked on out of order, answered once, committed."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import cast

from streams.broker.dead_letters import dead_letter_message
from streams.broker.overflow import OverflowLane
from streams.broker.port import Broker, LogRecord, Message, Partition, Producer, Reader
from streams.broker.queue_plan import QueuePlan, Session, SharingSession
from streams.broker.retention import delete_consumed
from streams.broker.watermark import Watermark
from streams.errors import BrokerError, CodecError, UnknownSchema
from streams.records.load import Load

log = logging.getLogger(__name__)

CLOCK_SKEW_MS = 60_000
"""Results are looked for from this long before the first open call: stamps of different machines differ."""

COMMIT_INTERVAL_S = 0.5
TRIM_INTERVAL_S = 3_600.0
BITE = 500
POLL_S = 0.5
FULL_POLL_S = 0.02
"""Longest wait of a poll while a topic is left out because its lot has no room: it may have by then."""

Readers = list[tuple[Reader, dict[Partition, Watermark]]]


class OwnedPartition:
    """See the module.

    Attributes:
        ready: Calls are being read.
        marks: By topic of calls, what of it is finished.
    """

    _session: Session
    _group_of_calls: asyncio.TaskGroup

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
        self._outbox: list[tuple[Partition, int, str, Message | None]] = []
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._open: Counter[str] = Counter()
        self._total = 0
        self._writing = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._shares: SharingSession | None = None
        self._lane: OverflowLane | None = None

    @property
    def open(self) -> int:
        """Calls being worked on or waiting for a place."""
        return self._total

    @property
    def overflowed(self) -> int:
        """Calls that wait in the overflow lane."""
        return self._lane.waiting if self._lane is not None else 0

    def stop(self) -> None:
        """Read no more; calls under way may end, within the time to drain."""
        self._stopping.set()
        if self._shares is not None:
            self._shares.let_go()

    async def work(self, session: Session) -> None:
        """Work the calls until stopped."""
        self._session = session
        positions = await self._positions()
        if self._plan.overflow:
            self._shares = cast(SharingSession, session)
            self._lane = await self._open_lane(self._shares, positions)
        await self._read_answers(session, positions)
        self.marks = {source: Watermark(positions[source]) for source in self._sources}
        async with self._broker.reader(group=self._group) as reader, self._broker.reader(group=self._group) as second:
            await reader.assign({source: positions[source] for source in self._sources})
            readers: Readers = [(reader, self.marks)]
            if self._lane is not None:
                readers.append((second, {self._lane.source: self._lane.mark}))
            self.ready = True
            async with asyncio.TaskGroup() as group:
                self._group_of_calls = group
                helpers = [
                    group.create_task(self._answer_for_ever()),
                    group.create_task(self._commit_for_ever(readers)),
                    group.create_task(self._trim_for_ever()),
                ]
                draining = [group.create_task(self._lane.run(second))] if self._lane is not None else []
                await self._read_until_stopped(reader)
                for task in draining:
                    task.cancel()
                if self._calls:
                    await asyncio.wait(self._calls, timeout=self._drain_s)
                await self._emptied()
                for task in (*self._calls, *helpers):
                    task.cancel()
            await self._commit(readers)

    async def _open_lane(self, session: SharingSession, positions: dict[Partition, int]) -> OverflowLane:
        source = Partition(self._plan.overflow, self._number)
        lane = OverflowLane(
            self._broker,
            source,
            positions[source],
            session,
            max_parked=self._plan.max_parked,
            room=self._room_of,
            start=self._start,
        )
        end = (await self._broker.admin.end_offsets([source]))[source]
        async for records in _read_from(self._broker, source, positions[source], end):
            lane.learn(records, end)
        return lane

    async def _positions(self) -> dict[Partition, int]:
        overflow = (Partition(self._plan.overflow, self._number),) if self._plan.overflow else ()
        sources = (*self._sources, *overflow)
        begins = await self._broker.admin.begin_offsets(sources)
        committed = await self._broker.admin.group_offsets(self._group, sources)
        return {source: max(begins[source], committed.get(source, 0)) for source in sources}

    async def _read_answers(self, session: Session, positions: dict[Partition, int]) -> None:
        """Tell the session which calls beyond the positions have a result."""
        oldest = await self._oldest_open(positions)
        if oldest is None:
            return
        results = Partition(self._plan.results, self._number)
        start = (await self._broker.admin.offsets_at({results: oldest - CLOCK_SKEW_MS}))[results]
        end = (await self._broker.admin.end_offsets([results]))[results]
        async for batch in _read_from(self._broker, results, start, end):
            for record in batch:
                session.answered(record)

    async def _oldest_open(self, positions: dict[Partition, int]) -> int | None:
        """Return the stamp of the oldest call beyond the positions, None where there is none."""
        ends = await self._broker.admin.end_offsets(positions)
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

    async def _read_until_stopped(self, reader: Reader) -> None:
        while not self._stopping.is_set():
            self._room.clear()
            rooms = {source: room for source in self._sources if (room := self._room_in(source)) > 0}
            if not rooms:
                await _first_of(self._room, self._stopping)
                continue
            timeout_s = POLL_S if len(rooms) == len(self._sources) else FULL_POLL_S
            batch = await reader.poll(tuple(rooms), max_records=min(BITE, *rooms.values()), timeout_s=timeout_s)
            if not batch:
                await self._pass_markers(reader)
            for source, records in batch.items():
                await self._take(source, records)

    def _room_in(self, source: Partition) -> int:
        """Return how many records of a topic may be read now."""
        if self._shares is None:
            return self._plan.max_open - self._open[source.topic]
        lot = self._shares.alone(source.topic)
        return self._room_of(lot) if lot else BITE

    def _room_of(self, lot: str) -> int:
        if self._shares is None or not lot:
            return sys.maxsize
        return self._shares.share(lot) - self._open[lot]

    async def _take(self, source: Partition, records: list[LogRecord]) -> None:
        shares, lane, mark = self._shares, self._lane, self.marks[source]
        moving: list[tuple[LogRecord, str]] = []
        for record in records:
            mark.take(record.offset)
            if shares is None or lane is None:
                self._start(source, record, source.topic)
            elif lane.was_moved(record):
                mark.finish(record.offset)
            elif (lot := shares.lot(record)) and not shares.alone(source.topic) and lane.takes(lot):
                moving.append((record, lot))
                lane.expect(lot)
            else:
                self._start(source, record, lot)
        if moving and lane is not None:
            await lane.move(moving)
            for record, _ in moving:
                mark.finish(record.offset)

    def _start(self, source: Partition, record: LogRecord, lot: str) -> None:
        self._open[lot] += 1
        self._total += 1
        task = self._group_of_calls.create_task(self._handle(source, record, lot))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _pass_markers(self, reader: Reader) -> None:
        """Move past transaction markers at the end of the log; here, where no poll can be under way."""
        for source, mark in self.marks.items():
            mark.advance(await reader.position(source))

    async def _handle(self, source: Partition, record: LogRecord, lot: str) -> None:
        try:
            answer = await self._session.handle(record)
        except UnknownSchema:
            raise
        except CodecError as error:
            self._count_set_aside()
            answer = dead_letter_message(self._plan.dead_letters, record, error, f"{self._plan.role} {self._number}")
        self._outbox.append((source, record.offset, lot, answer))
        self._filled.set()

    async def _answer_for_ever(self) -> None:
        """Write results; those that come while one batch is being acknowledged are the next batch."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            batch, self._outbox = self._outbox, []
            messages = [message for *_, message in batch if message is not None]
            self._writing = len(batch)
            if messages:
                await self._producer.send(*messages)
            self._writing = 0
            for source, offset, lot, _ in batch:
                self._mark_of(source).finish(offset)
                self._open[lot] -= 1
            self._total -= len(batch)
            self._room.set()
            if self._lane is not None:
                self._lane.freed()

    def _mark_of(self, source: Partition) -> Watermark:
        lane = self._lane
        return lane.mark if lane is not None and source == lane.source else self.marks[source]

    async def _emptied(self) -> None:
        """Wait, for two seconds at most, until what is answered is written; calls that go on are not waited for."""
        for _ in range(200):
            if not self._outbox and not self._writing:
                return
            await asyncio.sleep(0.01)

    async def _commit_for_ever(self, readers: Readers) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit(readers)

    async def _trim_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TRIM_INTERVAL_S)
            lane = self._lane
            marks = self.marks if lane is None else {**self.marks, lane.source: lane.mark}
            positions = {source: mark.position for source, mark in marks.items()}
            try:
                horizon_ms = int((self._now() - self._plan.history_s) * 1000)
                await delete_consumed(self._broker.admin, positions, horizon_ms)
            except BrokerError as error:
                log.warning("%s %d could not delete answered calls: %s", self._plan.role, self._number, error)

    async def _commit(self, readers: Readers) -> None:
        at_ms = int(self._now() * 1000)
        for reader, marks in readers:
            notes = {s: Load(at_ms, mark.unfinished, read=mark.read).note() for s, mark in marks.items()}
            try:
                await reader.commit({source: mark.position for source, mark in marks.items()}, notes)
            except BrokerError as error:
                log.warning("%s %d could not commit its position: %s", self._plan.role, self._number, error)


async def _read_from(broker: Broker, source: Partition, start: int, end: int) -> AsyncIterator[list[LogRecord]]:
    if start >= end:
        return
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
