"""Shares the pools among the processes that work them: tells what this one has to do, goes by what it is allotted, and,
for the owner of the first partition, allots.

Everything travels over one topic, which all dispatchers follow from its end. What is allotted is written by the fenced
owner alone, in transactions; its own part comes to it over the topic like everybody's, so that one that was fenced
without knowing it has no part any more when its lease is over. What a part may be is decided in `budget` and `lease`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from streams.broker.port import Broker, LogRecord, Message, Partition, Producer, Ring
from streams.errors import BrokerError, CodecError, OwnershipLost, PositionOutOfRange
from streams.llm.budget import Budget, Terms
from streams.llm.fair_shares import parts_here
from streams.llm.key_turns import KeySize
from streams.llm.lease import Lease
from streams.llm.limits import WHOLE
from streams.llm.pool import Pool
from streams.llm.settings import LlmSettings
from streams.records import decode, encode, headers
from streams.records.allotments import LlmAllotments, LlmDemand
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

TENANTS = 64
"""Tenants that a demand names; the others count as one."""

OTHERS = "\0others"
GATHER_S = 0.01
MIN_GAP_S = 0.04
RETRY_S = 1.0
LEAVE_S = 2.0
LOOK_BACK_MS = 3_600_000
"""How far back a new scheduler reads; every lease is shorter."""


class Allotments:
    """The pools of this process as parts of what all processes share.

    Args:
        pools: By name. Those that the provider limits do nothing until they are allotted a part.
        holder: Name of this process, another one after each start.
        confirm: Proves that this process still owns the first partition; raises OwnershipLost.
        clock: Seconds of a clock that only grows; *now* is the time of day.
        machine: Which machine's boot *clock* counts from; empty where that is not known.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        settings: LlmSettings,
        pools: Mapping[str, Pool],
        *,
        holder: str,
        confirm: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        now: Callable[[], float],
        machine: str,
        random: Random,
    ) -> None:
        self._broker = broker
        self._place = Partition(catalogue.name("allotments"), 0)
        self._ring_name = f"{catalogue.namespace}-llm"
        self._settings = settings
        self._pools = dict(pools)
        self._holder = holder
        self._confirm = confirm
        self._clock = clock
        self._now = now
        self._machine = machine
        self._random = random
        self._leases = {name: Lease(holder, len(pool.secrets)) for name, pool in self._pools.items()}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._others: dict[str, dict[str, tuple[float, Mapping[str, int]]]] = {name: {} for name in self._pools}
        self._nudged = asyncio.Event()
        self._heard = asyncio.Event()
        self._budgets: dict[str, Budget] | None = None
        self._early: list[LlmDemand] = []
        for name, pool in self._pools.items():
            pool.waits = self._waits
            self._go_by_lease(name)

    async def run(self, producer: Producer) -> None:
        """Follow the topic and tell what there is to do, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(), name="llm allotments")
                tasks.create_task(self._tell(producer), name="llm demands")
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def leave(self, producer: Producer) -> None:
        """Let go of all parts; call it when no call is made any more."""
        try:
            async with asyncio.timeout(LEAVE_S):
                await producer.send(*self._demands(leaving=True))
        except (BrokerError, TimeoutError) as error:
            log.warning("what was allotted is free only when its time is over: %s", error)

    @asynccontextmanager
    async def scheduling(self) -> AsyncIterator[None]:
        """Be the scheduler of all pools meanwhile; for the owner of the first partition."""
        task = asyncio.create_task(self._schedule(), name="llm scheduler")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    # -- one of many ---------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            try:
                async with self._broker.reader() as reader:
                    end = (await self._broker.admin.end_offsets([self._place]))[self._place]
                    await reader.assign({self._place: end})
                    self._nudged.set()
                    while True:
                        for records in (await reader.poll(timeout_s=1.0)).values():
                            for record in records:
                                self._take(record)
            except (BrokerError, PositionOutOfRange) as error:
                log.warning("allotments cannot be followed, trying again: %s", error)
            await asyncio.sleep(RETRY_S * (0.5 + self._random.random()))

    def _take(self, record: LogRecord) -> None:
        match _read(record):
            case LlmAllotments() as allotments if allotments.pool in self._pools:
                lease = self._leases[allotments.pool]
                before = lease.parts(self._clock())
                lease.take(allotments)
                if lease.parts(self._clock()) != before:
                    self._nudged.set()  # what it lets go of is free for others once it has said so
                self._go_by_lease(allotments.pool)
            case LlmDemand() as demand if demand.pool in self._pools:
                if demand.holder != self._holder:
                    self._others[demand.pool][demand.holder] = self._clock(), demand.waiting
                self._hear(demand)

    def _go_by_lease(self, name: str) -> None:
        pool, lease, now = self._pools[name], self._leases[name], self._clock()
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        if not pool.scheduler.limited:
            pool.allot((WHOLE,) * len(pool.secrets))
            return
        pool.allot(lease.parts(now), lease.until)
        if now < lease.until < math.inf:
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(lease.until - now, self._go_by_lease, name)

    def _waits(self) -> None:
        """Something waits: say so at once, unless everything is this process's anyway."""
        if not self._nudged.is_set() and any(
            part.rate < 1.0 for lease in self._leases.values() for part in lease.parts(self._clock())
        ):
            self._nudged.set()

    async def _tell(self, producer: Producer) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.allotment_report_s):
                    await self._nudged.wait()
            except TimeoutError:
                pass
            self._nudged.clear()
            try:
                await producer.send(*self._demands())
            except BrokerError as error:
                log.warning("what there is to do is not told: %s", error)
            await asyncio.sleep(MIN_GAP_S)

    def _demands(self, *, leaving: bool = False) -> list[Message]:
        messages = []
        for name, pool in self._pools.items():
            lease, scheduler = self._leases[name], pool.scheduler
            waiting = scheduler.queue.waiting()
            scheduler.queue.set_parts(parts_here(waiting, self._waiting_elsewhere(name)))
            demand = LlmDemand(
                pool=name,
                holder=self._holder,
                number=lease.ask(self._clock()),
                applied=lease.applied,
                waiting={} if leaving else _few(waiting),
                served=_few(scheduler.take_served()),
                running=tuple(key.running for key in scheduler.keys),
                need=min(1.0, scheduler.needs()),
                leaving=leaving,
            )
            messages.append(self._message(name, encode(demand), "llm-demand"))
        return messages

    def _waiting_elsewhere(self, name: str) -> list[Mapping[str, int]]:
        """Return what the other dispatchers said lately that waits with them."""
        horizon = self._clock() - self._settings.allotment_s
        self._others[name] = {holder: told for holder, told in self._others[name].items() if told[0] >= horizon}
        return [waiting for _, waiting in self._others[name].values()]

    # -- the one that allots -------------------------------------------------------------------------------------------

    def _hear(self, demand: LlmDemand) -> None:
        if self._budgets is None:
            # While this process reads what its predecessor has granted.
            self._early = [*self._early[-1_000:], demand]
        elif (budget := self._budgets.get(demand.pool)) is not None:
            budget.hear(demand, self._clock())
            self._heard.set()

    async def _schedule(self) -> None:
        while True:
            ring = self._broker.ring(self._ring_name)
            try:
                await self._confirm()
                await ring.start()
                await self._resume()
                await self._allot(ring)
            except OwnershipLost as error:
                log.warning("the pools are not scheduled from here any more: %s", error)
                return
            except BrokerError as error:
                log.warning("the pools are not scheduled for a moment: %s", error)
            finally:
                self._budgets = None
                await ring.close()
            await asyncio.sleep(RETRY_S * (0.5 + self._random.random()))

    async def _resume(self) -> None:
        """Learn what earlier schedulers have granted. They are fenced: nothing comes after what is read here."""
        self._early = []
        budgets = {
            name: Budget(name, self._sizes(pool), self._terms(pool), self._settings.tenant_weights)
            for name, pool in self._pools.items()
        }
        last: dict[str, LlmAllotments] = {}
        left: list[LlmDemand] = []
        admin = self._broker.admin
        end = (await admin.end_offsets([self._place]))[self._place]
        since = {self._place: int(self._now() * 1000) - LOOK_BACK_MS}
        async with self._broker.reader() as reader:
            await reader.assign(await admin.offsets_at(since))
            while await reader.position(self._place) < end:
                for records in (await reader.poll(max_records=5_000, timeout_s=0.1)).values():
                    for record in records:
                        match _read(record):
                            case LlmAllotments() as allotments:
                                last[allotments.pool] = allotments
                            case LlmDemand(leaving=True) as demand:
                                left.append(demand)
        now = self._clock()
        for name, budget in budgets.items():
            if (latest := last.get(name)) is not None:
                here = self._machine and latest.machine == self._machine
                budget.resume(latest, now - latest.at_s if here else 0.0, now)
        self._budgets = budgets
        for demand in (*left, *self._early):
            self._hear(demand)
        self._nudged.set()

    async def _allot(self, ring: Ring) -> None:
        assert self._budgets is not None
        due = self._clock()
        while True:
            try:
                async with asyncio.timeout(max(0.0, due - self._clock())):
                    await self._heard.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_S)
            self._heard.clear()
            renew = self._clock() >= due
            messages = []
            for name, budget in self._budgets.items():
                budget.set_keys(self._sizes(self._pools[name]))
                now = self._clock()
                allotments, changed = budget.grant(now, self._machine, now)
                if renew or changed:
                    messages.append(self._message(name, encode(allotments), "llm-allotments"))
            if renew:
                due = self._clock() + self._settings.allotment_report_s
            if messages:
                await ring.transact(messages)
            await asyncio.sleep(MIN_GAP_S)

    def _sizes(self, pool: Pool) -> list[KeySize]:
        return [KeySize(key.limits.concurrency, pool.settings.burst_s) for key in pool.scheduler.keys]

    def _terms(self, pool: Pool) -> Terms:
        return Terms(self._settings.allotment_s, pool.settings.abandoned_s)

    def _message(self, pool: str, value: bytes, kind: str) -> Message:
        return Message(self._place.topic, pool.encode(), value, self._place.number, headers.internal(kind))


def boot_of_this_machine() -> str:
    """Return what is the same for all processes whose monotonic clocks can be compared; empty if that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _read(record: LogRecord) -> object:
    try:
        return decode(record.value or b"")
    except CodecError as error:
        log.warning("a record of %s is ignored: %s", record.topic, error)
        return None


def _few(tokens: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of those tenants that have most, and the others' together."""
    if len(tokens) <= TENANTS:
        return dict(tokens)
    ordered = Counter(tokens).most_common()
    return dict(ordered[:TENANTS]) | {OTHERS: sum(amount for _, amount in ordered[TENANTS:])}
