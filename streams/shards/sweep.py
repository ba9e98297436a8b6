"""What of a shard's state may leave the log: what the store was seen to have, long after it was flushed.

A pass reads `state-deltas` of the shard from its beginning, up to what is old enough, and compares it with the store,
record by record. So a failover of the store that has lost its last commits is found before the log forgets them: then
a pass over the whole log collects what is lost, and the shard writes it again. State that is in memory whole is passed
over: it stays in the log as long as it is in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog

from streams.broker.port import Broker, LogRecord, Partition
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
REPAIRED_AT_ONCE = 10_000
POLL_S = 0.2


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
                await asyncio.wait_for(self._repair.wait(), self._every_s)
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
                if not repairing or found.lost >= REPAIRED_AT_ONCE:
                    self._repair.set()

    async def sweep(self, *, repairing: bool = False) -> Pass:
        """Make one pass.

        Args:
            repairing: Read up to the sink's position, whatever the age, and write again what the store has lost.

        Raises:
            StoreError: The store is away.
            BrokerUnavailable: The log is.
        """
        done = Pass()
        end = (self._flushed_offset() or 0) if repairing else self._may_leave()
        lost: dict[bytes, StateDelta] = {}
        begin = (await self._broker.admin.begin_offsets([self._source]))[self._source]
        if begin >= end:
            return done
        async with self._broker.reader() as reader:
            await reader.assign({self._source: begin})
            while await reader.position(self._source) < end:
                batch = await reader.poll(max_records=BITE, timeout_s=POLL_S)
                records = [record for record in batch.get(self._source, ()) if record.offset < end]
                done.read += len(records)
                await self._compare(records, lost, done, repairing)
                await asyncio.sleep(REST_S)
        if repairing and lost:
            self._engine.cold.begin_sweep({owner_and_record(key)[0] for key in lost})
            await self._apply(Swept((), tuple(lost.values())))
        done.lost = len(lost)
        self.passes += 1
        return done

    async def _compare(
        self, records: Iterable[LogRecord], lost: dict[bytes, StateDelta], done: Pass, repairing: bool
    ) -> None:
        """Compare what is not in memory with the store; the latest of each key counts."""
        latest = {record.key: record.value for record in records if record.key is not None}
        owners = {key: owner_and_record(key)[0] for key, value in latest.items() if value is not None}
        outside = self._engine.cold.begin_sweep(set(owners.values()))
        asked = {
            key: decode_as(StateDelta, latest[key] or b"") for key, owner in owners.items() if owner in outside
        }  # fmt: skip
        if not asked:
            return
        has = await self._reads.versions([(delta.owner, delta.record) for delta in asked.values()])
        kept: list[tuple[bytes, str]] = []
        for key, delta in asked.items():
            mine, stored = (delta.epoch, delta.sequence), has.get((delta.owner, delta.record), (-1, -1))
            if stored < mine:
                if len(lost) < REPAIRED_AT_ONCE:
                    lost[key] = delta
                continue
            lost.pop(key, None)
            if stored == mine and not repairing:
                kept.append((key, owners[key]))
        if kept:
            done.kept += len(kept)
            await self._apply(Swept(tuple(kept)))
