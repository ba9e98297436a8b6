"""The role `llm`: works the queue of LLM requests of the partitions that this process owns.

Requests stay in `llm-requests` until they are answered: after a crash the next owner finds them, and skips those that
have a result. What is asked when, and of whom, is the dispatcher's decision.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from pydantic import SecretStr

from streams.app import App
from streams.breakers import BreakerSettings, Guard
from streams.breakers.feed import breakers_table, report_outcomes
from streams.broker.owned_queue import OwnedQueue, QueuePlan, Session
from streams.broker.port import Broker, LogRecord, Message, Partition
from streams.broker.table import Table
from streams.errors import CodecError
from streams.llm.allotments import Allotments, boot_of_this_machine
from streams.llm.dispatcher import Dispatcher
from streams.llm.function import load_function
from streams.llm.letting_go import LettingGo
from streams.llm.limits import KeyLimits
from streams.llm.live_limits import LiveLimits
from streams.llm.measures import LlmMeasures
from streams.llm.pool import Pool
from streams.llm.pool_reports import report_of, report_pools
from streams.llm.pool_status import PoolStatus
from streams.llm.prices import FREE, Price, PriceTable, check_cost_budgets, load_prices, price_of
from streams.llm.providers import Provider, open_provider
from streams.llm.settings import LlmSettings, PoolSettings, check_pools, load_keys
from streams.llm.tenant_budgets import TenantBudgets
from streams.llm.tokens import TokenFeed
from streams.llm.usage_counts import UsageCounts
from streams.llm.usage_meter import UsageMeter
from streams.llm.usage_sums import UsageSums
from streams.records import decode_as, encode, headers
from streams.records.control import Limit, PoolReport
from streams.records.ids import StepId, agent_of
from streams.records.steps import LlmRequest, LlmResult
from streams.records.topics import Catalogue
from streams.tools.claims import Claims

log = logging.getLogger(__name__)

NO_KEY = (SecretStr("none"),)


class LlmRole:
    """Answers LLM requests until cancelled.

    Args:
        breakers: Thresholds of the breakers on the endpoints.
        instance_id: Makes the membership static: restarted with the same one, it keeps its partitions.
        providers: By pool, in place of the official clients.
        now: Time of day in seconds since the epoch; *clock* is one that only grows.
        machine: Which machine's boot *clock* counts from; this one's if None.

    Attributes:
        usage: What was used since the process began, by tenant and model.

    Raises:
        ConfigurationError: A model without a pool, a pool without keys, a provider that is not installed.
    """

    def __init__(
        self,
        app: App,
        broker: Broker,
        catalogue: Catalogue,
        settings: LlmSettings,
        *,
        breakers: BreakerSettings | None = None,
        instance_id: str | None = None,
        providers: Mapping[str, Provider] | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        machine: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        given = dict(providers or {})
        check_pools(app, settings, provided=given)
        table = load_prices(settings.prices_file)
        check_cost_budgets(app, settings, table)
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._now = now
        self._random = rng or random.Random()
        self._owned: dict[int, LettingGo] = {}
        reporter = f"llm-{instance_id or f'{socket.gethostname()}-{os.getpid()}'}"
        self._pools: dict[str, Pool] = {}
        for name, pool in settings.pools.items():
            self._pools[name] = Pool(
                name,
                pool,
                _keys(name, pool, provided=name in given),
                given.get(name) or _open(pool),
                self._guard(f"llm:{name}", breakers or BreakerSettings(), reporter, pool.timeout_s),
                clock,
                now,
                settings.tenant_weights,
                price=_price(name, pool, table),
            )
        self._reporter = reporter
        keys = {name: len(pool.secrets) for name, pool in self._pools.items()}
        self._limits = LiveLimits(settings.pools, keys, settings.tenant_budgets, self._configure)
        self.usage = UsageCounts(settings.usage_tenants)
        sums = UsageSums(settings.usage_window)
        budgets = TenantBudgets(self._limits.budget_of, sums, now)
        self._meter = UsageMeter(
            broker, catalogue, sums, self.usage, flush_s=settings.usage_flush_s, now=now, random=self._random
        )
        self._meter.counted = budgets.release
        self.dispatcher = Dispatcher(
            self._pools,
            max_result_bytes=catalogue.max_payload_bytes,
            clock=clock,
            now=now,
            rng=self._random,
            budgets=budgets,
        )
        self.measures = LlmMeasures(self._pools)
        self._feed: TokenFeed | None = None
        lanes = catalogue.lanes.get("llm-requests", ())
        self._topics = (catalogue.name("llm-requests"), *(catalogue.name("llm-requests", lane) for lane in lanes))
        plan = QueuePlan(
            namespace=catalogue.namespace,
            role="llm",
            anchor=catalogue.name("owners"),
            calls=self._topics,
            results=catalogue.name("llm-results"),
            dead_letters=catalogue.name("dead-letters"),
            history_s=catalogue.history_s,
            max_open=settings.max_held,
        )
        self._allotments = Allotments(
            broker,
            catalogue,
            settings,
            self._pools,
            holder=f"{reporter}-{self._random.getrandbits(48):012x}",
            confirm=lambda: self.queue.confirm(),
            clock=clock,
            now=now,
            machine=boot_of_this_machine() if machine is None else machine,
            random=self._random,
        )
        self.queue = _Queue(
            self._let_go, broker, plan, self._open, instance_id=instance_id, drain_s=settings.drain_s, now=now
        )

    async def run(self) -> None:
        """Join the group and answer requests until cancelled."""
        async with AsyncExitStack() as stack:
            for pool in self._pools.values():
                stack.push_async_callback(pool.provider.close)
                stack.callback(pool.stop)
            producer = await stack.enter_async_context(self._broker.producer())
            self._feed = TokenFeed(producer, self._catalogue.name("tokens"), self._settings.tokens_flush_s)
            await stack.enter_async_context(
                breakers_table(self._broker, self._catalogue, self.dispatcher.follow, random=self._random)
            )
            limits = Table(self._broker, [Partition(self._catalogue.name("limits"), 0)], random=self._random)
            limits.on_record(self._follow_limit)
            await stack.enter_async_context(limits)
            await limits.wait_loaded()  # limits that an operator lowered must hold from the first call on
            stack.push_async_callback(self._allotments.leave, producer)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._meter.run(), name="llm usage")
                tasks.create_task(self._work(), name="llm queue")
                tasks.create_task(self._allotments.run(producer), name="llm sharing")
                tasks.create_task(
                    report_pools(producer, self._catalogue, self._reports, every_s=self._settings.status_report_s),
                    name="llm pools",
                )
                tasks.create_task(self._feed.run(), name="llm tokens")
                tasks.create_task(
                    report_outcomes(
                        producer,
                        self._catalogue,
                        self.dispatcher.drain,
                        every_s=self._settings.breaker_report_s,
                        now_ms=lambda: int(self._now() * 1000),
                    ),
                    name="llm outcomes",
                )

    def _guard(self, dependency: str, breakers: BreakerSettings, reporter: str, timeout_s: float) -> Guard:
        policy = breakers.policy_of(dependency)
        return Guard(dependency, policy, reporter, self._random.random, longest_call_s=timeout_s)

    def status(self) -> tuple[PoolStatus, ...]:
        """Return what each pool holds, sends, and has left."""
        return tuple(pool.status() for pool in self._pools.values())

    async def _work(self) -> None:
        await self._meter.wait_loaded()  # a budget that is used up must hold from the first call on, too
        await self.queue.run()

    def _configure(self, pool: str, key: int, limits: KeyLimits) -> None:
        self._pools[pool].set_limits(limits, key)

    def _follow_limit(self, record: LogRecord) -> None:
        subject = (record.key or b"").decode("utf-8", "replace")
        try:
            self._limits.put(subject, decode_as(Limit, record.value) if record.value is not None else None)
        except CodecError as error:
            log.error("a change to the limits of %r is ignored: %s", subject, error)

    def _reports(self, ttl_s: float) -> Iterator[PoolReport]:
        now_ms = int(self._now() * 1000)
        for status in self.status():
            yield report_of(status, self._reporter, now_ms, ttl_s, self._limits.changes_to(status.name))

    @asynccontextmanager
    async def _open(self, partition: int) -> AsyncIterator[Session]:
        letting_go = self._owned[partition] = LettingGo()
        self._meter.own(partition)
        claims = self._claims_of(partition)
        try:
            if claims is not None:
                await claims.open()
            async with self._allotments.scheduling() if partition == 0 else nullcontext():
                sources = [Partition(topic, partition) for topic in self._topics]
                taken_over = await self._broker.admin.end_offsets(sources)
                yield _Requests(self, partition, letting_go, claims, taken_over)
        finally:
            if claims is not None:
                await claims.close()
            del self._owned[partition]
            self._meter.disown(partition)

    def _claims_of(self, partition: int) -> Claims | None:
        """Return the claims of a partition, None where no pool needs any."""
        if all(pool.effect == "idempotent" for pool in self._settings.pools.values()):
            return None
        return Claims(
            self._broker,
            self._catalogue,
            partition,
            worker=self._reporter,
            kept_s=self._settings.claims_kept_s,
            now=self._now,
            of="llm",
        )

    def _let_go(self, partitions: Collection[int]) -> None:
        for partition in partitions:
            if (letting_go := self._owned.get(partition)) is not None:
                letting_go.begin()

    async def answer(
        self,
        request: LlmRequest,
        partition: int,
        letting_go: LettingGo,
        claims: Claims | None,
        *,
        sent_before: bool,
    ) -> Message:
        """Return the record that answers a request; *claims* and *sent_before* as for `Dispatcher.answer`."""
        assert self._feed is not None
        stream = partial(self._feed.open, request, partition) if request.stream else None
        result = await self.dispatcher.answer(request, stream, letting_go, claims=claims, sent_before=sent_before)
        self.measures.answer(result)
        return Message(
            self._catalogue.name("llm-results"),
            agent_of(request.invocation).encode(),
            encode(result),
            partition,
            headers.internal("llm-result", request.traceparent),
        )


class _Queue(OwnedQueue):
    """Says which partitions are to be let go of before it waits for their requests to end."""

    def __init__(self, let_go: Callable[[Collection[int]], None], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._let_go = let_go

    async def revoked(self, partitions: frozenset[int]) -> None:
        self._let_go(partitions)
        await super().revoked(partitions)


class _Requests:
    """The requests of one partition; see `streams.broker.owned_queue.Session`."""

    def __init__(
        self,
        role: LlmRole,
        partition: int,
        letting_go: LettingGo,
        claims: Claims | None,
        taken_over: Mapping[Partition, int],
    ) -> None:
        self._role = role
        self._taken_over = taken_over
        self._partition = partition
        self._letting_go = letting_go
        self._claims = claims
        self._answered: set[StepId] = set()
        self._open: set[StepId] = set()

    def answered(self, result: LogRecord) -> None:
        if result.value is not None:
            self._answered.add(decode_as(LlmResult, result.value).id)

    async def handle(self, record: LogRecord) -> Message | None:
        request = decode_as(LlmRequest, record.value or b"")
        if request.id in self._answered:
            self._answered.discard(request.id)
            return None
        if request.id in self._open:
            return None  # the same again, such as a dead letter that was sent back: one answer is enough
        before = record.offset < self._taken_over[Partition(record.topic, record.partition)]
        self._open.add(request.id)
        try:
            return await self._role.answer(request, self._partition, self._letting_go, self._claims, sent_before=before)
        finally:
            self._open.discard(request.id)


def _keys(name: str, pool: PoolSettings, *, provided: bool) -> tuple[SecretStr, ...]:
    """Return the keys of a pool; one that is none where nobody asks for keys and the settings name none."""
    if (provided or pool.function) and not (pool.keys_env or pool.keys_file):
        return NO_KEY
    return load_keys(name, pool)


def _open(pool: PoolSettings) -> Provider:
    if pool.function is not None:
        return load_function(pool.function)
    return open_provider(pool.provider, pool.base_url, connections=pool.connections)


def _price(name: str, pool: PoolSettings, table: PriceTable) -> Price:
    price = price_of(pool, table)
    if price is None:
        log.info("model %r of pool %r has no price; its calls count as free of charge", pool.model, name)
    return price or FREE
