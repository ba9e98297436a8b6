"""The memory role: reads `state-deltas` and `results` of the partitions it owns and writes them back to Postgres.

A membership of its own over the anchor topic says what it owns. It reads from the positions committed to the memberless
group `<namespace>-memory-sink`, and commits only what is in Postgres or in dead-letters: that is the flush watermark.
Reading again what was written already is harmless, so a rebalance needs no more care than letting a batch end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from streams.breakers import BreakerSettings, Guard
from streams.breakers.feed import breakers_table, report_outcomes
from streams.breakers.settings import POSTGRES
from streams.broker.port import Broker, LogRecord, Partition, Reader
from streams.errors import BrokerUnavailable, PositionOutOfRange
from streams.memory.decode import decode_batch
from streams.memory.ownership import Ownership
from streams.memory.positions import start_positions
from streams.memory.settings import MemorySettings
from streams.memory.sink import Abandoned, Sink, SinkCounts, Store
from streams.memory.store import PostgresStore
from streams.records.control import BreakerState
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

_IDLE_S = 0.5
_BROKER_PAUSE_S = 1.0


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryRole:
    """Runs the write-back until it is cancelled.

    Args:
        store: Where to write; made from the settings when not given.
        breakers: Thresholds of the breaker on Postgres.
        now_ms, rng: Clock in ms since the epoch, and source of jitter; handed in by simulations.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        settings: MemorySettings,
        *,
        store: Store | None = None,
        breakers: BreakerSettings | None = None,
        now_ms: Callable[[], int] = _wall_ms,
        rng: random.Random | None = None,
    ) -> None:
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._store = store
        self._now_ms = now_ms
        self._random = rng if rng is not None else random.Random()
        self._states, self._results = catalogue.name("state-deltas"), catalogue.name("results")
        self.group = catalogue.flush_group
        reporter = f"memory-{socket.gethostname()}-{os.getpid()}"
        policy = (breakers or BreakerSettings()).policy_of(POSTGRES)
        # A batch is a few statements on one connection.
        longest_s = settings.connect_timeout_s + 3 * settings.statement_timeout_s
        self.guard = Guard(POSTGRES, policy, reporter, self._random.random, longest_call_s=longest_s)
        self.counts = SinkCounts()
        self._ownership = Ownership()
        self._assigned: frozenset[int] = frozenset()
        self._committed: dict[Partition, int] = {}

    async def run(self) -> None:
        """Run until cancelled, then let go of everything.

        Raises:
            StoreUnavailable: Postgres could not be reached at the start. Later it is waited for.
            StoreError: Its tables are of a newer version, or a right is missing.
            BrokerUnavailable: The log could not be reached at the start. Later it is waited for.
        """
        membership = self._broker.membership(
            f"{self._catalogue.namespace}-memory",
            self._catalogue.name("owners"),
            instance_id=self._settings.group_instance_id,
        )
        async with AsyncExitStack() as stack:
            store = self._store or await self._open_store(stack)
            reader = await stack.enter_async_context(self._broker.reader(group=self.group))
            producer = await stack.enter_async_context(self._broker.producer())
            sink = Sink(
                store,
                producer,
                self.guard,
                self.counts,
                dead_letters=self._catalogue.name("dead-letters"),
                retry_ceiling_s=self._settings.retry_ceiling_s,
                now_ms=self._now_ms,
                luck=self._random.random,
            )
            await stack.enter_async_context(
                breakers_table(self._broker, self._catalogue, self._follow, random=self._random)
            )
            await membership.start(self._ownership)
            stack.push_async_callback(membership.leave)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, sink), name="memory sink")
                tasks.create_task(
                    report_outcomes(
                        producer,
                        self._catalogue,
                        self.guard.drain,
                        every_s=self._settings.breaker_report_s,
                        now_ms=self._now_ms,
                    ),
                    name="memory outcomes",
                )

    async def _open_store(self, stack: AsyncExitStack) -> PostgresStore:
        store = await stack.enter_async_context(PostgresStore(self._settings, self._catalogue.namespace))
        if self._settings.migrate_at_start:
            await store.migrate()
        await store.check()
        return store

    def _follow(self, record: BreakerState) -> None:
        if record.dependency == POSTGRES:
            self.guard.apply(record)

    async def _pump(self, reader: Reader, sink: Sink) -> None:
        while True:
            try:
                if self._ownership.owned != self._assigned:
                    await self._take_over(reader)
                if not self._assigned:
                    await self._ownership.wait_for_change(_IDLE_S)
                    continue
                async with self._ownership.busy:
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
        owned = self._ownership.owned
        partitions = [Partition(topic, number) for topic in (self._states, self._results) for number in sorted(owned)]
        admin = self._broker.admin
        self._committed = await admin.group_offsets(self.group, partitions)
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
        await sink.write(batch, lambda: self._ownership.owned == self._assigned and not self._ownership.yielding)
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
        owned = self._ownership.owned
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
