"""One writer's desk: a partition of `breakers` with the ring that fences its earlier writers, and the fleet's machines.

Whoever opens the desk takes it from whoever had it: the ring's start fences them, then the partition is read to its
end, and everything written from here on carries a higher epoch. After any error of the ring the desk is closed for
good; a new one reads the truth from the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from streams.breakers import BreakerPolicy, Transition
from streams.breakers.operators import PHASE_OF
from streams.broker.port import Broker, Message, Partition, Ring
from streams.broker.table import read_to_end
from streams.control.fleet import Fleet
from streams.errors import CodecError
from streams.records.codec import decode_as, encode
from streams.records.control import BreakerState, OutcomeDigest
from streams.records.headers import internal
from streams.records.signals import Order
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

_RING_CLOSE_S = 2.0


class Desk:
    """Use `Desk.open`.

    Attributes:
        number: Partition number, of `outcomes` and of `breakers` alike.
        epoch: Of everything that is written here.
        fleet: The machines; read it, and change it only by what is here.
    """

    def __init__(
        self,
        number: int,
        epoch: int,
        topic: str,
        fleet: Fleet,
        ring: Ring,
        on_change: Callable[[Transition], object],
    ) -> None:
        self.number = number
        self.epoch = epoch
        self._topic = topic
        self.fleet = fleet
        self._ring = ring
        self._on_change = on_change
        # Decisions and their records must leave in one order, whether an event or a timer made them.
        self._order = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        broker: Broker,
        catalogue: Catalogue,
        number: int,
        *,
        policy_of: Callable[[str], BreakerPolicy],
        max_age_s: float,
        luck: Callable[[], float],
        on_change: Callable[[Transition], object],
    ) -> Desk:
        """Take over partition *number*.

        Args:
            on_change: Told of every transition once it is on the topic.
            policy_of, max_age_s, luck: See `Fleet`.

        Raises:
            BrokerError: The log is away, or somebody took it over at the same time.
        """
        ring = broker.ring(f"{catalogue.namespace}-control-{number}")
        topic = catalogue.name("breakers")
        try:
            await ring.start()
            states: dict[str, BreakerState] = {}
            async for batch in read_to_end(broker, [Partition(topic, number)]):
                for record in batch:
                    _load(states, record.key or b"", record.value)
        except BaseException:
            await ring.close(_RING_CLOSE_S)
            raise
        epoch = max((state.epoch for state in states.values()), default=0) + 1
        fleet = Fleet(policy_of, states.values(), epoch, max_age_s=max_age_s, luck=luck)
        log.info("control has partition %d of %s with epoch %d and %d breakers", number, topic, epoch, len(states))
        return cls(number, epoch, topic, fleet, ring, on_change)

    async def take(self, digest: OutcomeDigest, now_ms: int) -> None:
        """Merge a digest and write what changed.

        Raises:
            BrokerError: It could not be written; the desk is closed.
        """
        async with self._order:
            await self._write(self.fleet.take(digest, now_ms))

    async def order(self, order: Order, now_ms: int) -> None:
        """Follow an operator's order and write what changed; raises as `take` does."""
        phase = PHASE_OF.get(order.action)
        if phase is None:
            log.warning("order %r of %s on %s is none that is known here", order.action, order.ordered_by, order.target)
            return
        async with self._order:
            await self._write(
                self.fleet.order(order.target, phase, order.ordered_by, order.reason, now_ms, order.request_id)
            )

    async def tick(self, now_ms: int) -> None:
        """Let time pass and write what changed; raises as `take` does."""
        async with self._order:
            await self._write(self.fleet.tick(now_ms))

    async def publish(self, messages: Sequence[Message]) -> None:
        """Write *messages* under this desk's fence; raises as `take` does."""
        async with self._order:
            await self._ring.transact(messages)

    async def close(self) -> None:
        """Let go of the ring. Never raises."""
        await self._ring.close(_RING_CLOSE_S)

    async def _write(self, changes: Sequence[Transition]) -> None:
        if not changes:
            return
        await self._ring.transact(
            [
                Message(
                    self._topic, c.after.dependency.encode(), encode(c.after), self.number, internal("BreakerState")
                )
                for c in changes
            ]
        )
        for change in changes:
            self._on_change(change)


def _load(states: dict[str, BreakerState], key: bytes, value: bytes | None) -> None:
    if value is None:
        states.pop(key.decode("utf-8", "replace"), None)
        return
    try:
        state = decode_as(BreakerState, value)
    except CodecError as error:
        log.error("breaker %r starts closed, its record cannot be read: %s", key, error)
        return
    states[state.dependency] = state
