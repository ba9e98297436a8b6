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
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from streams.breakers import BreakerSettings, Guard
from streams.breakers.feed import breakers_table, report_outcomes
from streams.breakers.settings import postgres_dependencies
from streams.broker.port import Broker, Producer
from streams.memory.flow import Flow
from streams.memory.migrate import Place
from streams.memory.ownership import Ownership
from streams.memory.retention import RetentionCounts, retain_for_ever
from streams.memory.settings import MemorySettings
from streams.memory.sink import Sink, SinkCounts, Store
from streams.memory.store import PostgresStore
from streams.memory.stores import open_stores
from streams.memory.upkeep import Upkeep
from streams.records.control import BreakerState, OutcomeDigest
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

_IDLE_S = 0.5
_BROKER_PAUSE_S = 1.0


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryRole:
    """Runs the write-back until it is cancelled.

    Args:
        stores: Where to write, one for each database; made from the settings when not given.
        breakers: Thresholds of the breaker on Postgres.
        now_ms, rng: Clock in ms since the epoch, and source of jitter; handed in by simulations.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        settings: MemorySettings,
        *,
        stores: Sequence[Store] = (),
        breakers: BreakerSettings | None = None,
        now_ms: Callable[[], int] = _wall_ms,
        rng: random.Random | None = None,
    ) -> None:
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._stores = tuple(stores)
        self._now_ms = now_ms
        self._random = rng if rng is not None else random.Random()
        self.group = catalogue.flush_group
        reporter = f"memory-{socket.gethostname()}-{os.getpid()}"
        # A batch is a few statements on one connection.
        longest_s = settings.connect_timeout_s + 3 * settings.statement_timeout_s
        names = postgres_dependencies(len(self._stores or settings.each()))
        judge = breakers or BreakerSettings()
        self.guards = tuple(
            Guard(name, judge.policy_of(name), reporter, self._random.random, longest_call_s=longest_s)
            for name in names
        )
        self.counts = SinkCounts()
        self.dropped = RetentionCounts()
        self._ownership = Ownership()

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
            stores = self._stores or await self._open_stores(stack)
            producer = await stack.enter_async_context(self._broker.producer())
            readers = [await stack.enter_async_context(self._broker.reader(group=self.group)) for _ in self.guards]
            await stack.enter_async_context(
                breakers_table(self._broker, self._catalogue, self._follow, random=self._random)
            )
            flows = [self._flow(number) for number in range(len(self.guards))]
            await membership.start(self._ownership)
            stack.push_async_callback(membership.leave)
            async with asyncio.TaskGroup() as tasks:
                for number, (flow, reader, store) in enumerate(zip(flows, readers, stores, strict=True)):
                    sink = self._sink(store, producer, self.guards[number])
                    tasks.create_task(flow.run(reader, sink), name=f"memory sink {number}")
                    if isinstance(store, PostgresStore):
                        tables = Upkeep(store.postgres)
                        tasks.create_task(
                            retain_for_ever(tables, self._settings, self.dropped, lambda: self._now_ms() / 1000),
                            name=f"memory retention {number}",
                        )
                tasks.create_task(
                    report_outcomes(
                        producer,
                        self._catalogue,
                        self._digests,
                        every_s=self._settings.breaker_report_s,
                        now_ms=self._now_ms,
                    ),
                    name="memory outcomes",
                )

    def _flow(self, number: int) -> Flow:
        return Flow(
            self._broker.admin,
            self._catalogue,
            self._settings,
            self._ownership,
            place=Place(number, len(self.guards)),
            rng=self._random,
        )

    def _sink(self, store: Store, producer: Producer, guard: Guard) -> Sink:
        return Sink(
            store,
            producer,
            guard,
            self.counts,
            dead_letters=self._catalogue.name("dead-letters"),
            retry_ceiling_s=self._settings.retry_ceiling_s,
            now_ms=self._now_ms,
            luck=self._random.random,
        )

    async def _open_stores(self, stack: AsyncExitStack) -> Sequence[PostgresStore]:
        stores = await stack.enter_async_context(open_stores(self._settings, self._catalogue))
        for store in stores.all:
            if self._settings.migrate_at_start:
                await store.migrate()
            await store.check()
        return stores.all

    def _digests(self, now_ms: int) -> tuple[OutcomeDigest, ...]:
        return tuple(digest for guard in self.guards for digest in guard.drain(now_ms))

    def _follow(self, record: BreakerState) -> None:
        for guard in self.guards:
            if record.dependency == guard.dependency:
                guard.apply(record)
