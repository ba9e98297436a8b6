"""The control plane without its host: which desks are open here, and what happens at each event and each tick.

A desk is opened when its partition is assigned to this process and the first event or tick asks for it. One that fails
(fenced by another controller, or the log is away) is let go of, and opened again after a pause if the partition is
still assigned: two controllers that both believe to be the owner settle as soon as the group does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from streams.backpressure import LagMonitor, LagReport
from streams.breakers import BreakerSettings, Transition
from streams.breakers.events import FLEET, log_transition
from streams.broker.port import Broker, Message, Partition
from streams.broker.table import read_to_end
from streams.control.desk import Desk
from streams.control.lanes import Lanes
from streams.control.settings import ControlSettings
from streams.errors import BrokerError, CodecError
from streams.records.codec import decode, decode_as, encode
from streams.records.control import BackpressureSignal, BreakerState, OutcomeDigest
from streams.records.headers import backpressure
from streams.records.signals import Order
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

LANES_DESK = 0
"""The desk whose owner publishes backpressure."""
_REOPEN_S = 2.0
_ORDER_RETRY_S = 0.5


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class ControlPlane:
    """Decides for the partitions that it was assigned.

    Args:
        breakers: Thresholds of every dependency.
        now_ms, rng: Clock in ms since the epoch, and source of jitter; handed in by simulations.

    Attributes:
        transitions: How often a phase was entered by a decision made here, by (dependency, phase).
        unreadable: Records of `outcomes` that are neither a digest nor an order.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        settings: ControlSettings,
        *,
        breakers: BreakerSettings | None = None,
        now_ms: Callable[[], int] = _wall_ms,
        rng: random.Random | None = None,
    ) -> None:
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._breakers = breakers or BreakerSettings()
        self._now_ms = now_ms
        self._random = rng if rng is not None else random.Random()
        self._owned: frozenset[int] = frozenset()
        self._desks: dict[int, Desk] = {}
        self._reopen_at_s: dict[int, float] = {}
        self._opening = asyncio.Lock()
        self._lanes = Lanes(settings.backpressure, settings.behind)
        self._lanes_epoch = 0
        self._monitor: LagMonitor | None = None
        self._signals: dict[str, BackpressureSignal] = {}
        self._report: LagReport | None = None
        self.unreadable = 0
        self.transitions: Counter[tuple[str, str]] = Counter()

    @property
    def report(self) -> LagReport | None:
        """What the last sample found; None in processes that do not publish backpressure."""
        return self._report

    @property
    def signals(self) -> Mapping[str, BackpressureSignal]:
        """What was last published by this process, by lane."""
        return self._signals

    async def assign(self, partitions: frozenset[int]) -> None:
        """Own exactly *partitions* of `outcomes` from now on; desks of others are closed."""
        self._owned = partitions
        async with self._opening:
            for number in self._desks.keys() - partitions:
                await self._desks.pop(number).close()

    async def take(self, number: int, value: bytes) -> None:
        """Merge a digest, or follow an order, that was read from partition *number*.

        Never raises for what comes from outside.
        """
        try:
            record = decode(value)
        except CodecError as error:
            self.unreadable += 1
            log.warning("a record on partition %d of outcomes is ignored: %s", number, error)
            return
        if not isinstance(record, OutcomeDigest | Order):
            self.unreadable += 1
            log.warning("a %s has no place on partition %d of outcomes", type(record).__name__, number)
            return
        if isinstance(record, OutcomeDigest):
            if (desk := await self._desk(number)) is not None:
                await self._try(desk, desk.take(record, self._now_ms()))
            return
        # Digests are soft state, an order is not: it is tried until the log has what follows from it.
        while number in self._owned:
            desk = await self._desk(number)
            if desk is not None and await self._try(desk, desk.order(record, self._now_ms())):
                return
            await asyncio.sleep(_ORDER_RETRY_S)

    async def tick(self) -> None:
        """Let time pass for every breaker."""
        for number in sorted(self._owned):
            desk = await self._desk(number)
            if desk is not None:
                await self._try(desk, desk.tick(self._now_ms()))

    async def sample(self) -> None:
        """Sample the lag and publish what producers should know, if that is this process's part."""
        desk = await self._desk(LANES_DESK)
        if desk is None:
            self._stop_measuring()
            return
        try:
            if self._monitor is None or self._lanes_epoch != desk.epoch:
                await self._start_measuring()
                self._lanes_epoch = desk.epoch
            assert self._monitor is not None
            report = await self._monitor.sample()
        except BrokerError as error:
            log.warning("lag was not sampled: %s", error)
            self._stop_measuring()
            return
        self._report = report
        signals = self._lanes.decide(report, asyncio.get_running_loop().time())
        if signals:
            await self._try(desk, desk.publish([self._message(signal) for signal in signals]))
        for signal in signals:
            before = self._signals.get(signal.lane)
            if before is not None and before.level != signal.level:
                log.warning("lane %s is %s (was %s): %s", signal.lane, signal.level, before.level, signal.reason)
            self._signals[signal.lane] = signal

    def states(self) -> tuple[BreakerState, ...]:
        """Return the breakers of the partitions that are decided here."""
        return tuple(state for _, desk in sorted(self._desks.items()) for state in desk.fleet.states())

    def _count(self, change: Transition) -> None:
        log_transition(change, FLEET, here=True)
        if change.changes_phase:
            self.transitions[change.after.dependency, change.after.phase] += 1

    async def close(self) -> None:
        """Let go of everything."""
        self._stop_measuring()
        await self.assign(frozenset())

    async def _desk(self, number: int) -> Desk | None:
        desk = self._desks.get(number)
        if desk is not None or number not in self._owned:
            return desk
        async with self._opening:
            now_s = asyncio.get_running_loop().time()
            if number in self._desks or number not in self._owned or now_s < self._reopen_at_s.get(number, now_s):
                return self._desks.get(number)
            try:
                desk = await Desk.open(
                    self._broker,
                    self._catalogue,
                    number,
                    policy_of=self._breakers.policy_of,
                    max_age_s=self._settings.digest_max_age_s,
                    luck=self._random.random,
                    on_change=self._count,
                )
            except BrokerError as error:
                self._put_off(number, error)
                return None
            if number not in self._owned:
                await desk.close()
                return None
            self._desks[number] = desk
            return desk

    async def _try(self, desk: Desk, write: Awaitable[None]) -> bool:
        """Return whether it was written."""
        try:
            await write
        except BrokerError as error:
            if self._desks.get(desk.number) is desk:
                del self._desks[desk.number]
                self._put_off(desk.number, error)
                await desk.close()
            return False
        return True

    def _put_off(self, number: int, error: BrokerError) -> None:
        pause_s = _REOPEN_S * (1 + self._random.random())
        self._reopen_at_s[number] = asyncio.get_running_loop().time() + pause_s
        log.warning("control lets go of partition %d for %.1f s: %s", number, pause_s, error)

    async def _start_measuring(self) -> None:
        settings = self._settings
        self._lanes = Lanes(settings.backpressure, settings.behind)
        self._lanes.resume(await self._published(), asyncio.get_running_loop().time())
        self._monitor = LagMonitor(
            self._broker,
            self._catalogue,
            half_life_s=settings.backpressure.half_life_s,
            least_records=settings.backpressure.least_records,
            meter=settings.agent_queues,
            now_ms=self._now_ms,
        )

    def _stop_measuring(self) -> None:
        self._monitor = self._report = None
        self._signals.clear()

    async def _published(self) -> list[BackpressureSignal]:
        topic = self._catalogue.name("backpressure")
        found: dict[bytes, BackpressureSignal] = {}
        async for batch in read_to_end(self._broker, [Partition(topic, 0)]):
            for record in batch:
                found.pop(record.key or b"", None)
                if record.value is None:
                    continue
                try:
                    found[record.key or b""] = decode_as(BackpressureSignal, record.value)
                except CodecError as error:
                    log.warning("a signal of %s is ignored: %s", topic, error)
        return list(found.values())

    def _message(self, signal: BackpressureSignal) -> Message:
        topic = self._catalogue.name("backpressure")
        head = backpressure(signal.level, signal.retry_after_s, signal.ttl_s)
        return Message(topic, signal.lane.encode(), encode(signal), 0, head)
