"""The overflow lane of one partition: takes what exceeds the share of its lot, and gives it back as room comes.

A move is one transactional record that says what it replaces. Whoever takes the partition over reads the lane first and
skips the originals, so that a move happens once or not at all. In memory a waiting call is an offset: when its lot has
room, the lane is read again from there, so that a long backlog of one lot holds up no other one in the lane either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from streams.broker.parked import Parked
from streams.broker.port import Broker, LogRecord, Message, Partition, Reader
from streams.broker.queue_plan import SharingSession
from streams.broker.watermark import Watermark
from streams.records import headers

LOT, ORIGIN = "lot", "origin"
"""Headers of a moved call: what it is counted under, and the `topic:offset` that it was read from."""

BITE = 200
POLL_S = 0.5
REFILL = 0.75
"""A lot is given calls out of the lane again when no more than this part of its share is open: reading one at a time
would cost a fetch for each."""


class OverflowLane:
    """The lane while this process owns its partition.

    Args:
        room: How many more calls of a lot may be open.
        start: Starts a call, with its lot.

    Attributes:
        mark: What of the lane is finished.
    """

    def __init__(
        self,
        broker: Broker,
        source: Partition,
        position: int,
        session: SharingSession,
        *,
        max_parked: int,
        room: Callable[[str], int],
        start: Callable[[Partition, LogRecord, str], None],
    ) -> None:
        self.source = source
        self.mark = Watermark(position)
        self._broker = broker
        self._session = session
        self._room = room
        self._start = start
        self._parked = Parked(max_parked)
        self._replaced: set[tuple[str, int]] = set()
        self._frontier = position
        self._end = position
        self._settled = False
        self._turn = False
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Calls that wait in the lane."""
        return self._parked.waiting

    def learn(self, records: Iterable[LogRecord], end: int) -> None:
        """Take note of what an earlier owner has moved.

        Args:
            end: The lane's end; nobody else moves anything from now on.
        """
        self._end = max(self._end, end)
        for record in records:
            self._parked.moved(headers.header(record.headers, LOT))
            topic, _, offset = headers.header(record.headers, ORIGIN).rpartition(":")
            if offset.isdecimal():
                self._replaced.add((topic, int(offset)))

    def was_moved(self, record: LogRecord) -> bool:
        """Tell, once, whether an earlier owner has moved this call to the lane."""
        origin = (record.topic, record.offset)
        if origin not in self._replaced:
            return False
        self._replaced.discard(origin)
        return True

    def takes(self, lot: str) -> bool:
        """Tell whether a call that has just been read must move: no room, or earlier ones of its lot wait here."""
        return self._room(lot) <= 0 or self._parked.waits(lot)

    def expect(self, lot: str) -> None:
        """Note that a call of *lot* is about to be moved: those read after it must not overtake it."""
        self._parked.moved(lot)

    async def move(self, records: list[tuple[LogRecord, str]]) -> None:
        """Move calls that were `expect`ed; once it returns, the originals are done with."""
        offsets = await self._session.move([self._moved(record, lot) for record, lot in records])
        self._end = max(self._end, max(offsets) + 1)
        self._settled = False
        self._wake.set()

    def _moved(self, record: LogRecord, lot: str) -> Message:
        origin = f"{record.topic}:{record.offset}"
        added = ((LOT, lot.encode()), (ORIGIN, origin.encode()))
        return Message(self.source.topic, record.key, record.value, self.source.number, (*record.headers, *added))

    def freed(self) -> None:
        """Look again: a call has ended."""
        self._wake.set()

    async def run(self, reader: Reader) -> None:
        """Start what waits as room comes, until cancelled."""
        await reader.assign({self.source: self._frontier})
        while True:
            self._wake.clear()
            offset = self._next()
            if offset is None:
                if not self._settled and not len(self._parked):
                    self._settled = await self._pass_markers(reader)
                    continue
                await self._wake.wait()
                continue
            await self._read(reader, offset)

    def _next(self) -> int | None:
        """Return where to read: what is parked and has room, or what nobody has looked at yet; in turn."""
        parked = self._parked.first(self._refills)
        ahead = self._frontier if self._frontier < self._end and not self._parked.full else None
        self._turn = not self._turn
        if parked is None or ahead is None:
            return parked if ahead is None else ahead
        return parked if self._turn else ahead

    def _refills(self, lot: str) -> bool:
        return self._room(lot) >= max(1.0, (1 - REFILL) * self._session.share(lot))

    async def _read(self, reader: Reader, offset: int) -> bool:
        if await reader.position(self.source) != offset:
            await reader.seek(self.source, offset)
        batch = await reader.poll((self.source,), max_records=BITE, timeout_s=POLL_S)
        records = batch.get(self.source, [])
        for record in records:
            self._take(record)
        if not records:
            self._advance(await reader.position(self.source))
        return bool(records)

    async def _pass_markers(self, reader: Reader) -> bool:
        """Move past the markers behind the last call, so that lag tools see none; True when there is nothing else."""
        return not await self._read(reader, self._frontier)

    def _advance(self, position: int) -> None:
        if position > self._frontier:
            self._frontier = position
            self.mark.advance(position)

    def _take(self, record: LogRecord) -> None:
        lot, offset = headers.header(record.headers, LOT), record.offset
        fits = self._room(lot) > 0
        if offset >= self._frontier:
            self._frontier = offset + 1
            self.mark.take(offset)
            if not fits or self._parked.holds(lot):
                self._parked.park(lot, offset)
                return
        elif not fits or not self._parked.take(lot, offset):
            return
        self._parked.started(lot)
        self._start(self.source, as_it_was(record), lot)


def as_it_was(record: LogRecord) -> LogRecord:
    """Return a moved call with the headers that it had before."""
    return record._replace(headers=tuple(h for h in record.headers if h[0] not in (LOT, ORIGIN)))
