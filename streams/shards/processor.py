"""The transaction cycle of one shard: read, step, write, in that order and exactly once.

While one transaction commits, the next batch is read and computed; what it wants written gathers until the commit is
done. Step results are read before invocations, and invocations in small bites, paused while the shard is saturated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import structlog

from streams.broker.dead_letters import dead_letter
from streams.broker.open_transactions import check_nothing_open
from streams.broker.port import Broker, LogRecord, Message, Partition, Reader, Ring
from streams.broker.table import scan_to_end
from streams.errors import (
    BrokerUnavailable,
    CodecError,
    CommitAmbiguous,
    Fenced,
    InvalidInput,
    RestoreTooSlow,
    StreamsError,
)
from streams.records import encode, headers
from streams.records.journal import Cursor
from streams.records.topics import SHARD_INPUTS, Catalogue
from streams.shards.cold_reads import ColdReads
from streams.shards.effects import Event, Write
from streams.shards.engine import Engine
from streams.shards.inputs import to_event, waits_for_deploy
from streams.shards.keeper import Keeper
from streams.shards.live import CURSOR_KEY
from streams.shards.load import load_of
from streams.shards.pacing import CommitPace
from streams.shards.poison import Poison
from streams.shards.restore import Restored
from streams.shards.room import Room
from streams.shards.settings import ShardSettings
from streams.shards.watchdog import Watchdog

log = structlog.get_logger(__name__)

IDLE_S = 1.0
POSITION_INTERVAL_S = 0.5
STUCK_RETRY_S = 30.0
FEW_WORKING, FEW_WRITES = 1, 8
"""Invocations with a step out, and writes, up to which a commit is never held back: waiting would gather no more."""


class ShardProcessor:
    """One shard in this process, from taking it over to letting it go.

    Args:
        engine: A new engine for the partition; `run` fills it from the log.
        confirm: Proves by a round trip that this process still owns the partition.
        pace: Shared by the shards of the process.
        now: Seconds since the epoch.

    Attributes:
        ready: Restored and at work.
        settled: Everything that was computed so far is committed.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        partition: int,
        *,
        engine: Engine,
        settings: ShardSettings,
        confirm: Callable[[], Any],
        pace: CommitPace,
        watchdog: Watchdog,
        room: Room | None = None,
        reads: ColdReads | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.partition = partition
        self.positions: dict[str, int] = {}
        self.durable: dict[str, int] = {}
        self.restored_records = 0
        self.restored_s = 0.0
        self.transactions = 0
        self.written = 0
        self.stuck = ""
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._confirm = confirm
        self._pace = pace
        self._watchdog = watchdog
        self._now = now
        self._measures = engine.counters.measures
        self._inputs = {kind: Partition(catalogue.name(kind), partition) for kind in SHARD_INPUTS}
        self._kinds = {source: kind for kind, source in self._inputs.items()}
        self._never_paused = tuple(source for kind, source in self._inputs.items() if kind != "invocations")
        self._invocations = self._inputs["invocations"]
        self._topics: dict[tuple[str, str], str] = {}
        self._ring: Ring | None = None
        self._pending: list[Write] = []
        self._pending_bytes = 0
        self._advanced = False
        self._work = asyncio.Event()
        self.settled = asyncio.Event()
        self._paused = False
        self._poison = Poison()
        self.keeper = Keeper(
            broker, catalogue, partition, engine, room=room or Room(settings.cache_bytes), reads=reads,
            step=self._step_apart, sweep_every_s=settings.sweep_interval_s,
            tombstone_after_s=settings.tombstone_after_s, now=now,
        )  # fmt: skip
        self._stopping = False
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Own the shard until cancelled or `stop`ped.

        Raises:
            Fenced: Another process has taken the shard over.
            CommitAmbiguous: A commit's outcome is unknown; the process must end.
            OwnershipLost: The group has moved on.
            BrokerUnavailable: The log does not answer.
        """
        ring = self._broker.ring(f"{self._catalogue.namespace}-shard-{self.partition}")
        self._ring = ring
        group = f"{self._catalogue.namespace}-shards"
        try:
            await self._confirm()
            await ring.start()
            own = [
                Partition(self._catalogue.name(kind), self.partition) for kind in ("journal", "state-deltas", "results")
            ]
            await check_nothing_open(self._broker, own)
            await self._restore()
            await self._confirm()
            async with self._broker.reader(group=group) as reader:
                await self._assign(reader)
                await self._cycle(reader)
        finally:
            self.engine.close()
            self.keeper.close()
            await ring.close()

    def stop(self) -> None:
        """Finish the commit under way, then let go; `run` returns."""
        self._stopping = True

    # -- taking over ---------------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        started = time.perf_counter()
        keeper, now = self.keeper, self._now()
        restored = Restored(flushed_offset=await keeper.flushed_now(), room_bytes=keeper.room_bytes, now=now)
        for kind, take in (("journal", restored.take_journal), ("state-deltas", restored.take_state)):
            source = Partition(self._catalogue.name(kind), self.partition)
            limit_s = self._catalogue.tombstones_s(kind)
            try:
                async with asyncio.timeout(limit_s):
                    async for batch in scan_to_end(self._broker, source):
                        take(batch)
            except TimeoutError:
                raise RestoreTooSlow(source.topic, self.partition, restored.records, limit_s) from None
        cursor = restored.into(self.engine, self._now())
        keeper.restored(restored.end_offset)
        self.positions = dict(cursor.positions)
        self.durable = dict(cursor.positions)
        self._poison = Poison.after_restore(cursor)
        self.engine.one_at_a_time = self._poison.careful
        self.restored_records, self.restored_s = restored.records, time.perf_counter() - started
        log.info(
            "shard restored",
            partition=self.partition,
            records=restored.records,
            live=self.engine.open_count,
            epoch=self.engine.epoch,
            seconds=round(self.restored_s, 3),
        )

    async def _assign(self, reader: Reader) -> None:
        begins = await self._broker.admin.begin_offsets(self._inputs.values())
        for kind, source in self._inputs.items():
            self.positions.setdefault(kind, begins[source])
        await reader.assign({source: self.positions[kind] for kind, source in self._inputs.items()})

    # -- the cycle -----------------------------------------------------------------------------------------------------

    async def _cycle(self, reader: Reader) -> None:
        failed: StreamsError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                committer = group.create_task(self._commit_for_ever(), name=f"commits of shard {self.partition}")
                keeping = group.create_task(self.keeper.run(), name=f"keeper of shard {self.partition}")
                self._mark_advanced()  # the first transaction writes the new epoch, and counts a restart
                await self._settle()
                self.ready.set()
                await self._read_for_ever(reader)
                await self._settle()
                keeping.cancel()
                await self._settle()
                committer.cancel()
        except* StreamsError as errors:
            failed = _worst(errors)
        if failed is not None:
            raise failed  # not above: until Python 3.11.4 what is raised in an except* clause arrives as a group

    async def _read_for_ever(self, reader: Reader) -> None:
        reported = self._now()
        while not self._stopping:
            await self._take(await self._read(reader))
            if self._due():
                await self._wake()
            self._pause(reader)
            while self._full():
                await self._settle()
            if self._now() - reported >= POSITION_INTERVAL_S:
                reported = self._now()
                await self._report(reader)

    async def _read(self, reader: Reader) -> dict[Partition, list[LogRecord]]:
        """Return what has arrived, step results first; wait for something when there is nothing."""
        batch = await reader.poll(self._never_paused, max_records=self._settings.batch_records, timeout_s=0)
        if not self._paused:
            bite = await reader.poll((self._invocations,), max_records=self._settings.bite_records, timeout_s=0)
            batch = {**batch, **bite}
        if batch or self._due():
            return batch
        wake = self.engine.next_wake
        timeout = IDLE_S if wake is None else min(IDLE_S, max(0.0, wake - self._now()))
        sources = self._never_paused if self._paused else (*self._never_paused, self._invocations)
        return await reader.poll(sources, max_records=self._settings.bite_records, timeout_s=timeout)

    def _due(self) -> bool:
        wake = self.engine.next_wake
        return wake is not None and wake <= self._now()

    async def _take(self, batch: Mapping[Partition, list[LogRecord]]) -> None:
        """Process what was read in one step, so that it is one transaction and not one for each topic."""
        events: list[Event] = []
        set_aside: list[Write] = []
        positions: dict[str, int] = {}
        for source, records in batch.items():
            kind = self._kinds[source]
            if self._poison.careful:
                for record in records:
                    await self._take_alone(kind, record)
                continue
            decoded, bad = self._decode(kind, records)
            events += decoded
            set_aside += bad
            positions[kind] = records[-1].offset + 1
        if positions:
            self._measures.batch(len(events))
            await self._step(events, positions, set_aside)

    def _decode(self, kind: str, records: Iterable[LogRecord]) -> tuple[list[Event], list[Write]]:
        events: list[Event] = []
        set_aside: list[Write] = []
        for record in records:
            try:
                events.append(to_event(kind, record))
            except (CodecError, InvalidInput) as error:
                if waits_for_deploy(kind, error):
                    raise
                set_aside.append(self._set_aside(record, error))
        return events, set_aside

    def _set_aside(self, record: LogRecord, error: Exception) -> Write:
        log.warning(
            "record set aside",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=str(error),
        )
        self._measures.set_aside += 1
        by = f"shard {self.partition}"
        head = headers.internal("dead-letter")
        return Write("dead-letters", record.key or b"", dead_letter(record, error, by), self.partition, head)

    async def _wake(self) -> None:
        if not self._poison.careful:
            await self._step(())
            return
        for identity in self.engine.due(self._now()):
            live = self.engine.live.get(identity)
            if live is not None:
                key, name = live.invocation.agent_id.encode(), self._catalogue.name("invocations")
                stamp = live.invocation.submitted_at_ms
                record = LogRecord(name, self.partition, -1, stamp, key, live.encoded)
                await self._alone(identity, record, (), {}, [], wake=(identity,))
        await self._step((), wake=())

    async def _take_alone(self, kind: str, record: LogRecord) -> None:
        events, writes = self._decode(kind, [record])
        suspect = self.engine.suspects(events[0]) if events else ""
        await self._alone(suspect, record, events, {kind: record.offset + 1}, writes)

    async def _alone(
        self,
        suspect: str,
        record: LogRecord,
        events: Sequence[Event],
        positions: Mapping[str, int],
        writes: list[Write],
        *,
        wake: Collection[str] = (),
    ) -> None:
        """Run one step in a transaction of its own, after its attempt is committed; see `poison`."""
        if suspect and self._poison.guilty(suspect):
            reason = f"{suspect} ended its process {self._poison.attempts(suspect)} times; set aside by the shard"
            log.error("invocation set aside", invocation=suspect, partition=self.partition)
            writes.append(self._set_aside(record, InvalidInput(reason)))
            writes += self.engine.set_aside(suspect, reason, self._now(), events[0].record if events else None)
            events, wake = (), ()
        elif suspect:
            self._poison.attempt(suspect)
            self._mark_advanced()
            await self._settle()
        await self._step(events, positions, writes, wake)
        self._poison.survived(suspect)
        self.engine.one_at_a_time = self._poison.careful
        self._mark_advanced()
        await self._settle()

    async def _step(
        self,
        events: Iterable[Event],
        positions: Mapping[str, int] | None = None,
        writes: Iterable[Write] = (),
        wake: Collection[str] | None = None,
    ) -> None:
        """Run the engine from a plain callback: inside a task the interpreter's current task would be in its way."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        loop.call_soon(self._run_engine, events, positions or {}, writes, wake, done)
        await done

    async def _step_apart(self, events: Iterable[Event]) -> None:
        """Give the engine what is from no topic; it starts no invocation while one that kills is looked for."""
        await self._step(events, wake=() if self._poison.careful else None)
        while self._full():
            await self._settle()

    def _run_engine(
        self,
        events: Iterable[Event],
        positions: Mapping[str, int],
        writes: Iterable[Write],
        wake: Collection[str] | None,
        done: asyncio.Future[None],
    ) -> None:
        """Step, and take note of writes and positions in one go: the committer must never see one without the other."""
        try:
            with self._watchdog.watching(self.partition):
                wanted = [*writes, *self.engine.step(events, self._now(), wake=wake)]
        except BaseException as error:
            if done.done():
                raise
            done.set_exception(error)
            return
        self.keeper.ask()
        self.keeper.make_room()
        self._pending += wanted
        self._pending_bytes += sum(len(write.value) for write in wanted if write.value)
        self.positions.update(positions)
        if wanted or positions:
            self._mark_advanced()
        if not done.done():
            done.set_result(None)

    def _mark_advanced(self) -> None:
        self._advanced = True
        self.settled.clear()
        self._work.set()

    def _pause(self, reader: Reader) -> None:
        saturated = self.engine.saturated
        if saturated != self._paused:
            self._paused = saturated
            (reader.pause if saturated else reader.resume)((self._invocations,))

    # -- writing -------------------------------------------------------------------------------------------------------

    def _full(self) -> bool:
        return self._pending_bytes >= self._settings.batch_bytes or len(self._pending) >= self._settings.batch_records

    async def _commit_for_ever(self) -> None:
        """Write what has gathered, one transaction after the other; what comes meanwhile is the next one."""
        assert self._ring is not None
        while True:
            await self._work.wait()
            if self.engine.handlers.working > FEW_WORKING or len(self._pending) > FEW_WRITES:
                await self._pace.wait()
            self._work.clear()
            messages, positions, sequence = self._messages(), dict(self.positions), self.engine.sequence
            began = time.perf_counter()
            offsets = await self._ring.transact(messages)
            self._measures.transaction(time.perf_counter() - began, len(messages))
            self.keeper.wrote(messages, offsets, sequence)
            self.durable = positions
            self.transactions += 1
            self.written += len(messages)
            self._poison.progress(self.transactions)
            if not self._advanced:
                self.settled.set()

    async def _settle(self) -> None:
        """Wait until everything that has gathered is committed."""
        await self.settled.wait()

    def _messages(self) -> list[Message]:
        """Return the transaction's messages: journal keys once, with their last value, and the cursor."""
        topics, journal, messages = self._topics, {}, []
        for write in self._pending:
            if write.kind == "journal":
                journal[write.key] = write.value
                continue
            name = topics.get((write.kind, write.lane))
            if name is None:
                name = topics[write.kind, write.lane] = self._catalogue.name(write.kind, write.lane)
            partition = write.partition if write.partition >= 0 else None
            messages.append(Message(name, write.key, write.value, partition, write.headers))
        name = self._catalogue.name("journal")
        journal[CURSOR_KEY] = encode(self._cursor())
        messages += [Message(name, key, value, self.partition) for key, value in journal.items()]
        self._pending, self._pending_bytes, self._advanced = [], 0, False
        self.settled.clear()
        return messages

    def _cursor(self) -> Cursor:
        engine = self.engine
        return Cursor(
            epoch=engine.epoch,
            sequence=engine.sequence,
            accepted=engine.accepted,
            positions=self.positions,
            restarts=self._poison.restarts,
            suspects=self._poison.suspects,
            paused=tuple(sorted(engine.paused)),
        )

    async def _report(self, reader: Reader) -> None:
        """Commit positions to the memberless group, with a note of what is open.

        Both are for lag tools and the control plane only, so a failure costs nothing but a warning.
        """
        try:
            load = load_of(self.engine.live.values(), self.engine.handlers.working, self._now())
            positions = {source: await reader.position(source) for source in self._inputs.values()}
            await reader.commit(positions, {self._invocations: load.note()})
        except BrokerUnavailable as error:
            log.warning("positions not reported", partition=self.partition, reason=str(error))


def _worst(errors: BaseExceptionGroup[StreamsError]) -> StreamsError:
    """Return the error that decides what to do: one that ends the process before all others."""
    leaves: list[StreamsError] = []
    for error in errors.exceptions:
        leaves += [_worst(error)] if isinstance(error, BaseExceptionGroup) else [error]
    return next((error for error in leaves if must_exit(error)), leaves[0])


def must_exit(error: BaseException) -> bool:
    """Tell whether an error of a shard leaves the process no choice but to end."""
    return isinstance(error, Fenced | CommitAmbiguous)
