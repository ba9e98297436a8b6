"""The write-back of the shards that belong to one database: reads what they wrote, writes it there, commits.

It reads from the positions committed to the memberless group `<namespace>-memory-sink`, and commits only what is in
Postgres or in dead-letters: that is the flush watermark. Reading again what was written already is harmless.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random

from streams.broker.port import Admin, LogRecord, Partition, Reader
from streams.errors import BrokerUnavailable, PositionOutOfRange
from streams.memory.decode import decode_batch
from streams.memory.migrate import ONLY, Place
from streams.memory.ownership import Ownership
from streams.memory.positions import start_positions
from streams.memory.settings import MemorySettings
from streams.memory.sink import Abandoned, Sink
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

_IDLE_S = 0.5
_BROKER_PAUSE_S = 1.0


class Flow:
    """One of them.

    Args:
        place: Which of the databases; of the partitions that the process owns those are its own that belong there.
        rng: Source of jitter.
    """

    def __init__(
        self,
        admin: Admin,
        catalogue: Catalogue,
        settings: MemorySettings,
        ownership: Ownership,
        *,
        place: Place = ONLY,
        rng: Random,
    ) -> None:
        self._admin = admin
        self._settings = settings
        self._ownership = ownership
        self._place = place
        self._random = rng
        self._busy = ownership.enter()
        self._states, self._results = catalogue.name("state-deltas"), catalogue.name("results")
        self._group = catalogue.flush_group
        self._assigned: frozenset[int] = frozenset()
        self._committed: dict[Partition, int] = {}

    @property
    def _owned(self) -> frozenset[int]:
        place = self._place
        return frozenset(number for number in self._ownership.owned if number % place.of == place.number)

    async def run(self, reader: Reader, sink: Sink) -> None:
        """Write for ever what is there and comes."""
        while True:
            try:
                if self._owned != self._assigned:
                    await self._take_over(reader)
                if not self._assigned:
                    await self._ownership.wait_for_change(_IDLE_S)
                    continue
                async with self._busy:
                    await self._round(reader, sink)
            except Abandoned:
                # Its records are read again, here or by the next owner: nothing of it was committed.
                self._assigned = frozenset()
            except PositionOutOfRange as error:
                log.error("%s; starting again where the log begins", error)
                self._assigned = frozenset()
            except BrokerUnavailable as error:
                log.warning("%s; trying again", error)
                self._assigned = frozenset()
                await asyncio.sleep(_BROKER_PAUSE_S * (0.5 + self._random.random()))

    async def _take_over(self, reader: Reader) -> None:
        owned = self._owned
        partitions = [Partition(topic, number) for topic in (self._states, self._results) for number in sorted(owned)]
        admin = self._admin
        self._committed = await admin.group_offsets(self._group, partitions)
        begin = await admin.begin_offsets(partitions)
        end = await admin.end_offsets(partitions, isolation="read_uncommitted")
        positions, gaps = start_positions(self._committed, begin, end)
        for gap in gaps:
            log.error("%s", gap)
        await reader.assign(positions)
        self._assigned = owned

    async def _round(self, reader: Reader, sink: Sink) -> None:
        batch = decode_batch(await self._gather(reader), states=self._states, results=self._results)
        for partition, (offset, reason) in batch.held.items():
            log.error("%s[%d] is held at offset %d: %s", *partition, offset, reason)
            reader.pause([partition])
            await reader.seek(partition, offset)
        await sink.write(batch, lambda: self._owned == self._assigned and not self._ownership.yielding)
        await self._commit(reader)

    async def _gather(self, reader: Reader) -> dict[Partition, list[LogRecord]]:
        """Read until the batch is full, or the first record has waited for `flush_interval_s`."""
        settings = self._settings
        gathered = await reader.poll(max_records=settings.batch_rows, timeout_s=_IDLE_S)
        count = sum(map(len, gathered.values()))
        loop = asyncio.get_running_loop()
        until = loop.time() + settings.flush_interval_s
        while 0 < count < settings.batch_rows and (left_s := until - loop.time()) > 0:
            more = await reader.poll(max_records=settings.batch_rows - count, timeout_s=left_s)
            for partition, records in more.items():
                gathered.setdefault(partition, []).extend(records)
                count += len(records)
        return gathered

    async def _commit(self, reader: Reader) -> None:
        owned = self._owned
        moved = {}
        for topic in (self._states, self._results):
            for number in self._assigned & owned:
                partition = Partition(topic, number)
                position = await reader.position(partition)
                if position != self._committed.get(partition):
                    moved[partition] = position
        if moved:
            await reader.commit(moved)
            self._committed.update(moved)
