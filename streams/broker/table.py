"""Compacted topics as tables: read to their end, then followed. On the port alone, so the same for every log.

Readers of read-committed data know that they have arrived by their position, never by a record: markers of transactions
take offsets too, and the last record may be one that nobody sees.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from random import Random
from types import TracebackType
from typing import Self

from streams.broker.port import Broker, LogRecord, Partition, Reader, SkimmedRecord
from streams.errors import BrokerUnavailable, PositionOutOfRange

log = logging.getLogger(__name__)

# Short, because a poll that finds only markers returns nothing when this time is over.
_NEAR_END_S = 0.02
_FOLLOW_S = 1.0
_MAX_RECORDS = 5_000
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 5.0


async def read_to_end(
    broker: Broker, partitions: Collection[Partition], *, max_records: int = _MAX_RECORDS
) -> AsyncIterator[list[LogRecord]]:
    """Yield the committed records of *partitions* from the beginning up to the end that they have now.

    Batches are of one partition each, in the order of its offsets. What is written later is not read.
    """
    if not partitions:
        return
    async with broker.reader() as reader:
        begin = await broker.admin.begin_offsets(partitions)
        ends = await broker.admin.end_offsets(partitions)
        await reader.assign(begin)
        async for batch in _up_to(reader, ends, max_records):
            yield batch


async def scan_to_end(broker: Broker, source: Partition) -> AsyncIterator[Sequence[SkimmedRecord]]:
    """Yield the committed records of a partition as `read_to_end` does, with values, for who reads very many at once.

    Batches are scanned as long as the log gives them at once; where it does not, a reader knows what to do about it.
    """
    begins, ends = await broker.admin.begin_offsets([source]), await broker.admin.end_offsets([source])
    position, end = begins[source], ends[source]
    while position < end:
        found = (await broker.admin.scan({source: position})).get(source)
        if found is None or found.position <= position:
            break
        position = found.position
        if wanted := found.records if position <= end else [record for record in found.records if record[0] < end]:
            yield wanted
    else:
        return
    async with broker.reader() as reader:
        await reader.assign({source: position})
        async for batch in _up_to(reader, {source: end}, _MAX_RECORDS):
            yield [(record.offset, record.timestamp_ms, record.key, record.value) for record in batch]


class Table:
    """Follows compacted topics: loads what they hold, then every change, in a task that its context owns.

    Usage:
        >>> table = Table(broker, partitions)                                           # doctest: +SKIP
        >>> table.on_record(lambda record: values.__setitem__(record.key, record.value))
        >>> async with table:
        ...     await table.wait_loaded()

    Callbacks are called in the order of each partition's offsets. After an outage every partition is read on from where
    the table was, so that nothing is met twice or missed. Only when the log has lost that position (retention went past
    it, or the topic was made anew) is everything read from the beginning again. What a callback raises ends the
    context, as a task's error ends its `TaskGroup`.

    Args:
        partitions: What to follow, of one topic or of several.
        max_records: Most records that are taken at once before others get their turn on the event loop.
        random: For the jitter of retries; hand in a seeded one in simulations.
        since_ms: Pass over what is older, in milliseconds since the epoch; by default nothing.
    """

    def __init__(
        self,
        broker: Broker,
        partitions: Collection[Partition],
        *,
        max_records: int = 1_000,
        random: Random | None = None,
        since_ms: int = 0,
    ) -> None:
        self._broker = broker
        self._partitions = tuple(partitions)
        self._max_records = max_records
        self._random = random or Random()
        self._since_ms = since_ms
        self._callbacks: list[Callable[[LogRecord], object]] = []
        self._positions: dict[Partition, int] = {}
        self._loaded = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        topics = sorted({p.topic for p in self._partitions})
        self._follower = self._group.create_task(self._follow(), name=f"table of {', '.join(topics)}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._follower is not None:
            self._follower.cancel()
        await self._group.__aexit__(kind, error, traceback)

    @property
    def loaded(self) -> bool:
        """Whether everything that was there when the table started has been told to the callbacks."""
        return self._loaded.is_set()

    def on_record(self, callback: Callable[[LogRecord], object]) -> None:
        """Call *callback* with every record from now on, tombstones included; register it before entering."""
        self._callbacks.append(callback)

    async def wait_loaded(self, timeout_s: float = 60.0) -> None:
        """Return once `loaded`.

        Raises:
            BrokerUnavailable: It took longer than *timeout_s*.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._loaded.wait()
        except TimeoutError:
            topics = ", ".join(sorted({p.topic for p in self._partitions}))
            raise BrokerUnavailable(
                f"{topics} at {self._broker.address} could not be read to the end within {timeout_s:g} s"
            ) from None

    async def _follow(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while self._partitions:
            try:
                async with self._broker.reader() as reader:
                    await self._load(reader)
                    while True:
                        backoff_s = _FIRST_BACKOFF_S
                        await self._take(reader, _FOLLOW_S)
            except PositionOutOfRange as error:
                log.warning("table reads from the beginning again: %s", error)
                self._positions.clear()
            except BrokerUnavailable as error:
                log.warning("table waits %.1f s before it tries again: %s", backoff_s, error)
            await asyncio.sleep(backoff_s * (0.5 + self._random.random()))
            backoff_s = min(backoff_s * 2, _LAST_BACKOFF_S)
        self._loaded.set()

    async def _load(self, reader: Reader) -> None:
        admin = self._broker.admin
        if self._since_ms:
            begin = await admin.offsets_at(dict.fromkeys(self._partitions, self._since_ms))
        else:
            begin = await admin.begin_offsets(self._partitions)
        ends = await admin.end_offsets(self._partitions)
        self._positions = {p: self._positions.get(p, begin[p]) for p in self._partitions}
        await reader.assign(self._positions)
        while any(self._positions[p] < ends[p] for p in self._partitions):
            await self._take(reader, _NEAR_END_S)
            for partition in self._partitions:
                self._positions[partition] = await reader.position(partition)
        self._loaded.set()

    async def _take(self, reader: Reader, timeout_s: float) -> None:
        for partition, records in (await reader.poll(max_records=self._max_records, timeout_s=timeout_s)).items():
            for record in records:
                for callback in self._callbacks:
                    callback(record)
            self._positions[partition] = records[-1].offset + 1


async def _up_to(reader: Reader, ends: dict[Partition, int], max_records: int) -> AsyncIterator[list[LogRecord]]:
    left = dict(ends)
    while True:
        for partition in [p for p, end in left.items() if await reader.position(p) >= end]:
            del left[partition]
            reader.pause([partition])
        if not left:
            return
        for partition, records in (await reader.poll(max_records=max_records, timeout_s=_NEAR_END_S)).items():
            end = ends[partition]
            wanted = records if records[-1].offset < end else [r for r in records if r.offset < end]
            if wanted:
                yield wanted
