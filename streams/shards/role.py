"""The role `shards`: which partitions this process owns, and one processor for each of them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import structlog

from streams.agents.loop import refuse_blocking_calls
from streams.app import App
from streams.breakers.feed import breakers_table, report_outcomes
from streams.breakers.settings import BreakerSettings
from streams.breakers.view import BreakerView
from streams.broker.partitioning import partition_for
from streams.broker.port import Broker, Membership, Partition, Producer
from streams.broker.retention import delete_consumed
from streams.errors import StreamsError
from streams.llm.prices import Price
from streams.records import encode, headers
from streams.records.invocations import Result
from streams.records.json import result_to_json
from streams.records.topics import SHARD_INPUTS, Catalogue
from streams.shards.effects import Counters
from streams.shards.engine import Engine
from streams.shards.measures import ShardMeasures
from streams.shards.pacing import CommitPace
from streams.shards.processor import ShardProcessor, must_exit
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
        prices: What a model call may cost at most, by pool; for agents with a budget of money.
        die: Ends the process when a commit was fenced or is ambiguous.

    Attributes:
        measures: What all shards of the process measure together.
        breakers: The fleet's breakers as the shards know them.
    """

    def __init__(
        self,
        app: App,
        broker: Broker,
        catalogue: Catalogue,
        settings: ShardSettings,
        *,
        breakers: BreakerSettings | None = None,
        instance_id: str | None = None,
        prices: Mapping[str, Price] | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        die: Callable[[str], None] = end_process,
        watch: bool = True,
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

    async def run(self) -> None:
        """Join the group and work the shards that it gives this process; let go of them when cancelled."""
        refuse_blocking_calls()
        try:
            async with (
                breakers_table(self._broker, self._catalogue, self.breakers.apply),
                self._broker.producer() as producer,
                asyncio.TaskGroup() as group,
            ):
                if self._watch:
                    self._watchdog.start()
                group.create_task(self._report_demand(producer))
                await self._membership.start(self)
                await self._trim_for_ever()
        finally:
            await self._membership.leave()
            await self._stop(frozenset(self._tasks))
            self._watchdog.stop()

    async def _report_demand(self, producer: Producer) -> None:
        await report_outcomes(
            producer,
            self._catalogue,
            self.breakers.drain,
            every_s=DEMAND_INTERVAL_S,
            now_ms=lambda: int(self._now() * 1000),
        )

    # -- ownership (streams.broker.port.OwnershipListener) -------------------------------------------------------------

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Start a processor for each partition that is new here, stop those that are gone."""
        await self._stop(frozenset(self._tasks) - partitions)
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
