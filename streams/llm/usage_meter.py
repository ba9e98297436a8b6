"""Counts usage from the log: reads the results of the partitions that this process owns, and writes the `usage` topic.

The sums are written first, then the position is committed. What was read and not committed when the process ended, even
by `kill -9`, is read again by the next owner, and each row tells how far it goes: nothing is lost or counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

from streams.breakers.feed import partitions_of
from streams.broker.port import Broker, LogRecord, Message, Partition, Producer, Reader
from streams.broker.table import Table
from streams.errors import BrokerError, CodecError, PositionOutOfRange
from streams.llm.usage_counts import UsageCounts
from streams.llm.usage_sums import UsageSums, window_before_ms, window_start_ms
from streams.records import decode_as, encode, headers
from streams.records.control import Usage
from streams.records.ids import StepId
from streams.records.steps import LlmResult
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

RETRY_S = 1.0
POLL_S = 0.2


class UsageMeter:
    """See the module.

    Args:
        flush_s: Time between two writes of what has changed.
        now: Time of day in seconds since the epoch.

    Attributes:
        counted: Called with the step and the partition of each result that has been counted, or that used nothing.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        sums: UsageSums,
        counts: UsageCounts,
        *,
        flush_s: float,
        now: Callable[[], float],
        random: Random,
    ) -> None:
        self._broker = broker
        self._catalogue = catalogue
        self._sums = sums
        self._counts = counts
        self._flush_s = flush_s
        self._now = now
        self._owned: set[int] = set()
        self._changed = asyncio.Event()
        self._positions: dict[Partition, int] = {}
        self._random = random
        self._loaded = asyncio.Event()
        self.counted: Callable[[StepId], None] = lambda step: None

    def own(self, partition: int) -> None:
        """Count the results of a partition from now on."""
        self._owned.add(partition)
        self._changed.set()

    def disown(self, partition: int) -> None:
        """Count them no more: another process does."""
        self._owned.discard(partition)
        self._changed.set()

    async def wait_loaded(self) -> None:
        """Return once what was written before is known."""
        await self._loaded.wait()

    async def run(self) -> None:
        """Count until cancelled, and then write what is counted.

        Raises:
            BrokerUnavailable: What was written before cannot be read to its end.
        """
        self._sums.from_ms = window_start_ms(await self._surely_oldest_needed_ms(), self._sums.window)
        places = [Partition(self._catalogue.name("usage"), 0)]
        table = Table(self._broker, places, random=self._random, since_ms=self._sums.from_ms)
        table.on_record(self._follow)
        async with table, self._broker.producer() as producer:
            await table.wait_loaded()
            self._loaded.set()
            while True:
                try:
                    async with self._broker.reader(group=self._group) as reader:
                        try:
                            await self._work(reader, producer)
                        finally:
                            await self._flush(reader, producer)
                except PositionOutOfRange as error:
                    log.warning("usage of some calls was never counted, their results are gone: %s", error)
                    await self._restart_at_begin()
                except BrokerError as error:
                    log.warning("usage is counted later: %s", error)
                await asyncio.sleep(RETRY_S)

    @property
    def _group(self) -> str:
        return f"{self._catalogue.namespace}-llm-usage"

    async def _surely_oldest_needed_ms(self) -> int:
        """Ask again until Kafka answers: one that has just started has no coordinator of groups for a moment."""
        while True:
            try:
                return await self._oldest_needed_ms()
            except BrokerError as error:
                log.warning("what was used cannot be read yet: %s; trying again", error)
                await asyncio.sleep(RETRY_S)

    async def _oldest_needed_ms(self) -> int:
        """Return from when on rows must be known: the window before, or the oldest result that is not counted."""
        names = partitions_of(self._catalogue, "llm-results")
        admin = self._broker.admin
        begins, ends = await admin.begin_offsets(names), await admin.end_offsets(names)
        committed = await admin.group_offsets(self._group, names)
        oldest = window_before_ms(self._window_start_ms(), self._sums.window)
        async with self._broker.reader() as reader:
            for place in names:
                at = max(begins[place], committed.get(place, 0))
                await reader.assign({place: at})
                while await reader.position(place) < ends[place]:
                    if first := (await reader.poll(max_records=1, timeout_s=POLL_S)).get(place):
                        oldest = min(oldest, first[0].timestamp_ms)
                        break
        return oldest

    async def _work(self, reader: Reader, producer: Producer) -> None:
        loop = asyncio.get_running_loop()
        self._changed.set()
        flush_at = loop.time() + self._flush_s
        while True:
            if self._changed.is_set():
                self._changed.clear()
                await self._flush(reader, producer)
                await self._assign(reader)
            if self._positions:
                caught_up = await self._count(reader) == 0
            else:
                caught_up = True
                await self._wait(POLL_S)
            if loop.time() >= flush_at:
                if caught_up:
                    self._sums.forget_before(window_before_ms(self._window_start_ms(), self._sums.window))
                await self._flush(reader, producer)
                flush_at = loop.time() + self._flush_s

    async def _assign(self, reader: Reader) -> None:
        topic = self._catalogue.name("llm-results")
        wanted = {Partition(topic, number) for number in self._owned}
        new = wanted - self._positions.keys()
        self._positions = {place: at for place, at in self._positions.items() if place in wanted}
        if new:
            begins = await self._broker.admin.begin_offsets(new)
            committed = await self._broker.admin.group_offsets(self._group, new)
            self._positions |= {place: max(begins[place], committed.get(place, 0)) for place in new}
        await reader.assign(self._positions)

    async def _restart_at_begin(self) -> None:
        """Go on where the log begins; partitions whose position is within it stay where they are."""
        try:
            begins = await self._broker.admin.begin_offsets(tuple(self._positions))
            self._positions = {place: max(at, begins[place]) for place, at in self._positions.items()}
        except BrokerError as error:
            log.warning("usage is counted later: %s", error)

    async def _count(self, reader: Reader) -> int:
        """Count what has come; return how many results that were."""
        arrived = await reader.poll(max_records=1_000, timeout_s=POLL_S)
        for place, records in arrived.items():
            late = sum(record.timestamp_ms < self._sums.from_ms for record in records)
            if late:
                log.error("usage of %d results of %s[%d] is not counted: their window is long over", late, *place)
            for record in records:
                self._count_one(place, record)
            self._positions[place] = records[-1].offset + 1
        return sum(map(len, arrived.values()))

    def _count_one(self, place: Partition, record: LogRecord) -> None:
        try:
            result = decode_as(LlmResult, record.value or b"")
        except CodecError as error:
            log.warning("a result at %s[%d]@%d is not counted: %s", *place, record.offset, error)
            return
        if self._sums.count(place.number, record.offset, record.timestamp_ms, result):
            self._counts.count(result)
        self.counted(result.id)

    async def _flush(self, reader: Reader, producer: Producer) -> None:
        rows = self._sums.drain()
        topic = self._catalogue.name("usage")
        positions = dict(self._positions)
        if rows:
            try:
                head = headers.internal("usage")
                await producer.send(*(Message(topic, key.encode(), encode(row), 0, head) for key, row in rows.items()))
            except BaseException:
                self._sums.put_back(list(rows))
                raise
        if rows and positions:
            await reader.commit(positions)

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _follow(self, record: LogRecord) -> None:
        if record.value is None:
            return
        try:
            row = decode_as(Usage, record.value)
        except CodecError as error:
            log.warning("a record of %s is ignored: %s", record.topic, error)
            return
        self._sums.merge(row, own=row.shard in self._owned)

    def _window_start_ms(self) -> int:
        return window_start_ms(int(self._now() * 1000), self._sums.window)
