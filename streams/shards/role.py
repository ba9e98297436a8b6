"""The role `shards`: which partitions this process owns, and one processor for each of them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import random

import structlog

from streams.agents.loop import refuse_blocking_calls
from streams.app import App
from streams.breakers import Guard
from streams.breakers.feed import breakers_table, report_outcomes
from streams.breakers.settings import BreakerSettings, postgres_dependencies
from streams.breakers.view import BreakerView
from streams.broker.partitioning import partition_for
from streams.broker.port import Broker, Membership, Partition, Producer
from streams.broker.retention import delete_consumed
from streams.errors import StreamsError
from streams.llm.prices import Price
from streams.records import encode, headers
from streams.records.control import BreakerState, OutcomeDigest
from streams.records.invocations import Result
from streams.records.json import result_to_json
from streams.records.topics import SHARD_INPUTS, Catalogue
from streams.shards.cold_reads import ColdReads, ReadCounters, StateSource
from streams.shards.effects import Counters
from streams.shards.engine import Engine
from streams.shards.measures import ShardMeasures
from streams.shards.pacing import CommitPace
from streams.shards.processor import ShardProcessor, must_exit
from streams.shards.room import Room
from streams.shards.settings import ShardSettings
from streams.shards.watchdog import Watchdog

log = structlog.get_logger(__name__)

RETRY_S = 1.0
DEMAND_INTERVAL_S = 0.25
MAX_RETRY_S = 15.0


def end_process(reason: str) -> None:
    """End the process at once: an abandoned commit may still succeed, and only the log knows."""
    print(f"streams: ending this process: {reason}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(75)


class ShardRole:
    """Owns shards until cancelled.

    Args:
        sources: Where evicted state is read from, one for each database (shard *p* has number *p mod n*); none where
            there is no store, and then nothing is evicted.
        prices: What a model call may cost at most, by pool; for agents with a budget of money.
        die: Ends the process when a commit was fenced or is ambiguous.
        luck: Gives numbers uniform in [0, 1), for jitter.

    Attributes:
        measures: What all shards of the process measure together.
        breakers: The fleet's breakers as the shards know them.
        room: What agents' state takes in this process.
        reads: Reads of evicted state, of each database; none where there is no store.
    """

    def __init__(
        self,
        app: App,
        broker: Broker,
        catalogue: Catalogue,
        settings: ShardSettings,
        *,
        sources: Sequence[StateSource] = (),
        breakers: BreakerSettings | None = None,
        instance_id: str | None = None,
        prices: Mapping[str, Price] | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        die: Callable[[str], None] = end_process,
        watch: bool = True,
        luck: Callable[[], float] = random,
    ) -> None:
        self.processors: dict[int, ShardProcessor] = {}
        self.measures = ShardMeasures(app.agents)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._app = app
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._prices = dict(prices or {})
        self._now = now
        self._die = die
        self._watch = watch
        self._membership: Membership = broker.membership(
            f"{catalogue.namespace}-shards-owners", catalogue.name("owners"), instance_id=instance_id
        )
        self._pace = CommitPace(settings.max_commits_per_s, settings.max_commits_per_s / 10, clock)
        self._watchdog = Watchdog(settings.blocked_warning_s, settings.blocked_exit_s)
        self.breakers = BreakerView(breakers)
        self._reporter = f"shards-{socket.gethostname()}-{os.getpid()}"
        self.room = Room(settings.cache_bytes)
        judge, counters = breakers or BreakerSettings(), ReadCounters()
        self.reads = tuple(
            ColdReads(
                source,
                Guard(name, judge.policy_of(name), self._reporter, luck),
                linger_s=settings.cold_read_linger_s,
                batch=settings.cold_read_agents,
                now_ms=lambda: int(now() * 1000),
                clock=clock,
                luck=luck,
                counters=counters,
            )
            for source, name in zip(sources, postgres_dependencies(len(sources)), strict=True)
        )

    async def run(self) -> None:
        """Join the group and work the shards that it gives this process; let go of them when cancelled."""
        refuse_blocking_calls()
        try:
            async with (
                breakers_table(self._broker, self._catalogue, self._follow),
                self._broker.producer() as producer,
                asyncio.TaskGroup() as group,
            ):
                if self._watch:
                    self._watchdog.start()
                group.create_task(self._report_demand(producer))
                group.create_task(self._watch_flushes())
                for reads in self.reads:
                    group.create_task(reads.run(), name="cold reads")
                await self._membership.start(self)
                await self._trim_for_ever()
        finally:
            await self._membership.leave()
            await self._stop(frozenset(self._tasks))
            for reads in self.reads:
                await reads.close()
            self._watchdog.stop()

    async def _report_demand(self, producer: Producer) -> None:
        await report_outcomes(
            producer,
            self._catalogue,
            self._digests,
            every_s=DEMAND_INTERVAL_S,
            now_ms=lambda: int(self._now() * 1000),
        )

    def _digests(self, now_ms: int) -> tuple[OutcomeDigest, ...]:
        own = [digest for reads in self.reads for digest in reads.guard.drain(now_ms)]
        return (*self.breakers.drain(now_ms), *own)

    def _follow(self, record: BreakerState) -> None:
        self.breakers.apply(record)
        for reads in self.reads:
            if record.dependency == reads.guard.dependency:
                reads.guard.apply(record)

    # -- state (streams.shards.keeper) ---------------------------------------------------------------------------------

    async def _watch_flushes(self) -> None:
        """Tell the shards how far the sink has come, so that they evict what it has written."""
        told = False
        while True:
            await asyncio.sleep(self._settings.flush_check_s)
            keepers = [p.keeper for p in self.processors.values() if p.ready.is_set()]
            if not keepers:
                continue
            try:
                sources = [keeper.source for keeper in keepers]
                found = await self._broker.admin.group_offsets(self._catalogue.flush_group, sources)
            except StreamsError as error:
                log.warning("the sink's position is not known", reason=str(error))
                continue
            for keeper in keepers:
                keeper.advance(found.get(keeper.source))
            if not told and self.room.used_bytes > self.room.limit_bytes and (why := self._stays(found)):
                told = True
                log.warning(
                    "agents' state takes more than cache_bytes and stays in memory",
                    used_bytes=self.room.used_bytes, cache_bytes=self.room.limit_bytes, reason=why,
                )  # fmt: skip

    def _stays(self, found: Collection[Partition]) -> str:
        if not self.reads:
            return "no store is configured, so that nothing can be evicted; set STREAMS_MEMORY__DSN"
        return "" if found else "no sink has written any of it to the store; run the role memory"

    # -- ownership (streams.broker.port.OwnershipListener) -------------------------------------------------------------

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Start a processor for each partition that is new here, stop those that are gone."""
        await self._stop(frozenset(self._tasks) - partitions)
        for number in partitions:
            self.room.join(number)
        for number in sorted(partitions - self._tasks.keys()):
            self._tasks[number] = asyncio.create_task(self._own(number), name=f"shard {number}")
        log.info("shards assigned", partitions=sorted(partitions))

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Finish the commits under way and let go."""
        await self._stop(partitions)

    async def _stop(self, numbers: frozenset[int]) -> None:
        tasks = {number: self._tasks.pop(number) for number in numbers if number in self._tasks}
        if not tasks:
            return
        for number, task in tasks.items():
            processor = self.processors.get(number)
            if processor is not None and processor.ready.is_set() and not processor.stuck:
                processor.stop()
            else:
                task.cancel()  # it is still taking over, or waits to try again: there is no commit to finish
        await asyncio.wait(tasks.values(), timeout=3.0)
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values(), timeout=6.0)
        for number in tasks:
            self.processors.pop(number, None)

    async def _own(self, number: int) -> None:
        """Run the processor of a partition; after a failure that leaves ownership intact, again with a new one."""
        delay = RETRY_S
        while True:
            processor = self.processors[number] = self._processor(number)
            started = self._now()
            try:
                await processor.run()
                return
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if must_exit(error):
                    self._die(f"shard {number}: {type(error).__name__}: {error}")
                    return
                if not isinstance(error, StreamsError):
                    log.exception("shard failed", partition=number)
                processor.stuck = f"{type(error).__name__}: {error}"
                delay = RETRY_S if self._now() - started > MAX_RETRY_S else min(delay * 2, MAX_RETRY_S)
                log.error("shard waits and tries again", partition=number, in_s=delay, reason=processor.stuck)
            await asyncio.sleep(delay)

    def _processor(self, number: int) -> ShardProcessor:
        count = self._catalogue.partitions
        engine = Engine(
            self._app,
            partition=number,
            partition_of=lambda agent: partition_for(agent.encode(), count),
            limits=replace(self._settings.limits(self._catalogue.max_payload_bytes), prices=self._prices),
            admit=lambda dependency, now: self.breakers.admit(dependency, self._reporter, int(now * 1000)),
            encode_result=partial(encode_result, as_json=self._settings.results_as == "json"),
            counters=Counters(measures=self.measures),
        )
        return ShardProcessor(
            self._broker,
            self._catalogue,
            number,
            engine=engine,
            settings=self._settings,
            confirm=self._membership.confirm,
            pace=self._pace,
            watchdog=self._watchdog,
            room=self.room,
            reads=self.reads[number % len(self.reads)] if self.reads else None,
            now=self._now,
        )

    # -- housekeeping --------------------------------------------------------------------------------------------------

    async def _trim_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.trim_interval_s)
            try:
                await self.trim()
            except StreamsError as error:
                log.warning("consumed records not deleted", reason=str(error))

    async def trim(self) -> None:
        """Delete work that is below its durable position and older than the history."""
        horizon = int((self._now() - self._catalogue.history_s) * 1000)
        durable = {
            Partition(self._catalogue.name(kind), number): processor.durable[kind]
            for number, processor in self.processors.items()
            for kind in SHARD_INPUTS
            if kind in processor.durable
        }
        await delete_consumed(self._broker.admin, durable, horizon)


def encode_result(result: Result, *, as_json: bool) -> tuple[bytes, bytes]:
    """Return value and content type of a result on the result topic."""
    return (result_to_json(result), headers.JSON_TYPE) if as_json else (encode(result), headers.AVRO_TYPE)
