"""A shard's dealings with the store of its state: what is flushed, what must be read, what may leave memory and log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from streams.broker.port import Broker, Message, Partition
from streams.records.state import StateDelta
from streams.records.topics import Catalogue
from streams.shards.cold import StateArrived, Swept
from streams.shards.cold_reads import Ask, ColdReads
from streams.shards.effects import Event
from streams.shards.engine import Engine
from streams.shards.flushed import Flushed, FlushHistory
from streams.shards.room import Room
from streams.shards.sweep import Sweeper


class Keeper:
    """See the module.

    Args:
        room: What state may take in this process.
        reads: None where this process reads no store: then everything stays in memory.
        step: Gives events to the engine, in a step of their own.
        sweep_every_s: Seconds between passes over the log.
        tombstone_after_s: Seconds for which what the store has stays in the log.
        now: Seconds since the epoch.

    Attributes:
        flushed: What the store has of this shard's writes.
        flushed_offset: The sink's committed position, None where it is not known.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        partition: int,
        engine: Engine,
        *,
        room: Room,
        reads: ColdReads | None,
        step: Callable[[Sequence[Event]], Awaitable[None]],
        sweep_every_s: float,
        tombstone_after_s: float,
        now: Callable[[], float],
    ) -> None:
        self.source = Partition(catalogue.name("state-deltas"), partition)
        self.flushed = Flushed()
        self.flushed_offset: int | None = None
        self._broker = broker
        self._group = catalogue.flush_group
        self._engine = engine
        self._room = room
        self._reads = reads
        self._step = step
        self._now = now
        self._tombstone_after_s = tombstone_after_s
        self._history = FlushHistory(engine.cold.flush_marks, tombstone_after_s)
        self._arrived: list[Event] = []
        self._some = asyncio.Event()
        self.sweeper: Sweeper | None = None
        if reads is not None:
            engine.cold.trouble = ""
            self.sweeper = Sweeper(
                broker, self.source, engine, reads, apply=self._swept, every_s=sweep_every_s,
                flushed_offset=lambda: self.flushed_offset, may_leave=self._may_leave,
            )  # fmt: skip

    # -- taking over ---------------------------------------------------------------------------------------------------

    async def flushed_now(self) -> int:
        """Return the sink's committed position, 0 where there is none or nothing may be left to the store."""
        if self._reads is None:
            return 0
        found = await self._broker.admin.group_offsets(self._group, [self.source])
        return found.get(self.source, 0)

    @property
    def room_bytes(self) -> int | None:
        """What a restore may take; None for no bound."""
        return None if self._reads is None else self._room.share_bytes

    def restored(self, end_offset: int) -> None:
        """Begin after a restore: what it found beyond the sink's position is flushed when the sink has passed it."""
        self.flushed.wrote(end_offset, self._engine.sequence, 0)
        self._history = FlushHistory(self._engine.cold.flush_marks, self._tombstone_after_s)
        self._count()
        self.ask()  # requests in the journal wait for state, and in a shard where nothing happens no step asks for it

    # -- at work -------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Have read what the engine misses; it waits where this process reads no store."""
        if self._reads is None:
            self._engine.cold.take_wanted()
            return
        self._engine.cold.trouble = self._reads.trouble
        for miss in self._engine.cold.take_wanted():
            assert self.sweeper is not None
            self._reads.ask(Ask(miss, self._engine.cold.still_wanted, self._deliver, self.sweeper.repair))

    def wrote(self, messages: Sequence[Message], offsets: Sequence[int], sequence: int) -> None:
        """Note a committed transaction.

        Args:
            sequence: Of the last state write in it.
        """
        size, last = 0, -1
        for message, offset in zip(messages, offsets, strict=True):
            if message.topic == self.source.topic:
                size += len(message.value or b"")
                last = offset
        if last >= 0:
            self.flushed.wrote(last + 1, sequence, size)

    def advance(self, offset: int | None) -> None:
        """Take the sink's committed position, and make room if there is too little."""
        self.flushed_offset = offset
        self._engine.cold.flushed = self.flushed.advance(offset)
        if self._reads is not None:
            self._engine.cold.trouble = self._reads.trouble
            if (marks := self._history.note(offset, int(self._now() * 1000))) is not None:
                self._arrived.append(Event("store", marks))
                self._some.set()
        self.make_room()

    def make_room(self) -> None:
        """Evict what is too much for this process, as far as the store has it."""
        excess = self._count()
        if excess > 0 and self._reads is not None:
            self._engine.cold.evict(excess)
            self._count()

    def _count(self) -> int:
        return self._room.count(self.source.number, self._engine.state.size_bytes)

    async def run(self) -> None:
        """Give the engine what was read, and sweep the log; run it as a task."""
        if self.sweeper is None:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self.sweeper.run(), name=f"sweeper of shard {self.source.number}")
            while True:
                await self._some.wait()
                self._some.clear()
                events, self._arrived = self._arrived, []
                await self._step(events)

    def close(self) -> None:
        """Give up the shard's room."""
        self._room.leave(self.source.number)

    def _deliver(self, owner: str, deltas: tuple[StateDelta, ...]) -> None:
        self._arrived.append(Event("store", StateArrived(owner, deltas)))
        self._some.set()

    def _may_leave(self) -> int:
        """Return the position up to which the store has had everything for long enough."""
        return min(self._history.reached(int(self._now() * 1000)), self.flushed_offset or 0)

    async def _swept(self, swept: Swept) -> None:
        await self._step([Event("store", swept)])
