"""What of a shard's state may leave the log: what the store was seen to have, long after it was flushed.

A pass reads `state-deltas` of the shard from its beginning and compares the latest record of each key, where it is old
enough, with the store. So a failover of the store that has lost its last commits is found before the log forgets them:
then a pass looks at records of any age, and the shard writes again what is lost. What is in memory is passed over: it
stays in the log as long as it is in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from streams.broker.port import Broker, Partition, Reader
from streams.errors import StreamsError
from streams.records import decode_as
from streams.records.state import StateDelta
from streams.shards.cold import Swept
from streams.shards.cold_reads import ColdReads
from streams.shards.engine import Engine
from streams.shards.restore import owner_and_record

log = structlog.get_logger(__name__)

BITE = 1_000
REST_S = 0.02
PORTION = 50_000
"""Records that are judged together, after a look at the whole log behind them; they take some 20 MB."""

POLL_S, READ_S = 0.2, 5.0


class Candidate(NamedTuple):
    """A record that may leave the log, or must be written again."""

    owner: str
    record: str
    offset: int
    epoch: int
    sequence: int


@dataclass(slots=True)
class Pass:
    """How one pass went.

    Attributes:
        read: Records that were looked at.
        kept: Of those, tombstoned.
        lost: That the store has lost; more than zero in an ordinary pass asks for one over the whole log.
    """

    read: int = 0
    kept: int = 0
    lost: int = 0


class Sweeper:
    """Sweeps one shard's state out of the log.

    Args:
        source: The shard's partition of `state-deltas`.
        apply: Gives the engine what was found, in a step of its own.
        flushed_offset: The sink's committed position, None where it is not known.
        may_leave: Position up to which the store has had everything for long enough.
    """

    def __init__(
        self,
        broker: Broker,
        source: Partition,
        engine: Engine,
        reads: ColdReads,
        *,
        apply: Callable[[Swept], Awaitable[None]],
        flushed_offset: Callable[[], int | None],
        may_leave: Callable[[], int],
        every_s: float,
    ) -> None:
        self.passes = 0
        self._broker = broker
        self._source = source
        self._engine = engine
        self._reads = reads
        self._apply = apply
        self._flushed_offset = flushed_offset
        self._every_s = every_s
        self._may_leave = may_leave
        self._repair = asyncio.Event()

    def repair(self) -> None:
        """The store has lost something: look at the whole log soon."""
        self._repair.set()

    async def run(self) -> None:
        """Sweep for ever; run it as a task."""
        while True:
            try:
                async with asyncio.timeout(self._every_s):  # not wait_for, which starts a task for each pass
                    await self._repair.wait()
            except TimeoutError:
                pass
            repairing = self._repair.is_set()
            self._repair.clear()
            try:
                found = await self.sweep(repairing=repairing)
            except StreamsError as error:
                log.warning("state not swept out of the log", partition=self._source.number, reason=str(error))
                if repairing:
                    await asyncio.sleep(1.0)
                    self._repair.set()
                continue
            if found.lost:
                log.error(
                    "the store had lost records", partition=self._source.number, count=found.lost, repaired=repairing
                )
                if not repairing:
                    self._repair.set()

    async def sweep(self, *, repairing: bool = False) -> Pass:
        """Make one pass.

        Args:
            repairing: Whatever the age, and write again what the store has lost.

        Raises:
            StoreError: The store is away.
            BrokerUnavailable: The log is.
        """
        done = Pass()
        flushed = self._flushed_offset() or 0
        end = flushed if repairing else self._may_leave()
        position = (await self._broker.admin.begin_offsets([self._source]))[self._source]
        async with self._broker.reader() as reader:
            while position < end:
                portion: dict[bytes, Candidate] = {}
                self._engine.cold.begin_portion()
                await reader.assign({self._source: position})
                position = await self._gather(reader, portion, end, flushed)
                done.read += len(portion)
                entries = list(portion.items())
                for start in range(0, len(entries), BITE):
                    await self._compare(dict(entries[start : start + BITE]), done, repairing)
                    await asyncio.sleep(REST_S)
        self.passes += 1
        return done

    async def _gather(self, reader: Reader, portion: dict[bytes, Candidate], end: int, flushed: int) -> int:
        """Read a portion of what is not in memory, and the rest of the log for what is newer; return where it ended.

        A tombstone hides every earlier record of its key: only the latest one may be judged. Beyond the sink's
        position there is nothing of those that are not in memory: its position of now, for what was written while this
        reads may be evicted while this reads.
        """
        cold, full_at = self._engine.cold, end
        while await reader.position(self._source) < max(flushed, self._flushed_offset() or 0):
            batch = await reader.poll(max_records=BITE, timeout_s=POLL_S)
            for record in batch.get(self._source, ()):
                if record.key is None:
                    continue
                portion.pop(record.key, None)
                owner, name = owner_and_record(record.key)
                if record.offset < full_at and record.value is not None and cold.is_outside(owner):
                    delta = decode_as(StateDelta, record.value)
                    portion[record.key] = Candidate(owner, name, record.offset, delta.epoch, delta.sequence)
                    if len(portion) >= PORTION:
                        full_at = record.offset + 1
            await asyncio.sleep(0)
        return full_at

    async def _compare(self, candidates: Mapping[bytes, Candidate], done: Pass, repairing: bool) -> None:
        """Compare with the store what is not in memory; tombstone what it has, or write again what it has lost."""
        outside = self._engine.cold.begin_sweep({candidate.owner for candidate in candidates.values()})
        asked = {key: it for key, it in candidates.items() if it.owner in outside}
        if not asked:
            return
        has = await self._reads.versions([(it.owner, it.record) for it in asked.values()])
        kept: list[tuple[bytes, str]] = []
        lost: list[Candidate] = []
        for key, it in asked.items():
            stored = has.get((it.owner, it.record), (-1, -1))
            if stored < (it.epoch, it.sequence):
                lost.append(it)
            elif stored == (it.epoch, it.sequence) and not repairing:
                kept.append((key, it.owner))
        done.kept += len(kept)
        done.lost += len(lost)
        if kept:
            await self._apply(Swept(tuple(kept)))
        elif lost and repairing:
            await self._apply(Swept((), tuple([delta async for delta in self._read(lost)])))

    async def _read(self, candidates: Iterable[Candidate]) -> AsyncIterator[StateDelta]:
        """Yield the records of candidates from the log, those that compaction has not taken meanwhile."""
        async with self._broker.reader() as reader:
            for candidate in sorted(candidates, key=lambda it: it.offset):
                await reader.assign({self._source: candidate.offset})
                batch = await reader.poll(max_records=1, timeout_s=READ_S)
                for record in batch.get(self._source, ()):
                    if record.offset == candidate.offset and record.value is not None:
                        yield decode_as(StateDelta, record.value)
