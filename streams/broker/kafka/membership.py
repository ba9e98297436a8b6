"""Membership of a group over an anchor topic: learning which partition numbers this process owns, and proving it.

The consumer that is used for it reads nothing: its partitions are paused as they come. aiokafka rebalances eagerly, so
every rebalance revokes all and then assigns the new set.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from streams.broker.kafka.client import Connection, quietly
from streams.broker.port import OwnershipListener
from streams.errors import BrokerError, OwnershipLost

log = logging.getLogger(__name__)
_listener_class: Any = ConsumerRebalanceListener
_NEVER_MS = 2**31 - 1


class KafkaMembership:
    """See `streams.broker.port.Membership`."""

    def __init__(self, connection: Connection, group: str, anchor: str, instance_id: str | None) -> None:
        self._connection = connection
        self._group = group
        self._anchor = anchor
        self._instance_id = instance_id
        self._consumer: Any = None
        self._listener: OwnershipListener | None = None
        self._owned: frozenset[int] = frozenset()
        self._generation = -1
        self._telling = asyncio.Lock()
        self._pump: asyncio.Task[None] | None = None

    @property
    def owned(self) -> frozenset[int]:
        """Partition numbers that this process owns."""
        return self._owned

    async def start(self, listener: OwnershipListener) -> None:
        """Join the group; returns once the first assignment has been told to *listener*."""
        settings = self._connection.settings
        # The assignor keeps what it knows in class attributes; a class of its own keeps two groups apart.
        assignor = type("StickyAssignor", (StickyPartitionAssignor,), {})
        self._listener = listener

        def make() -> Any:
            return self._connection.consumer(
                f"member-{self._group}",
                group_id=self._group,
                group_instance_id=self._instance_id,
                session_timeout_ms=round(settings.session_timeout_s * 1000),
                heartbeat_interval_ms=round(settings.heartbeat_s * 1000),
                rebalance_timeout_ms=round(settings.rebalance_timeout_s * 1000),
                # Nothing is polled here, and a process that stands still is found by its heartbeats.
                max_poll_interval_ms=_NEVER_MS,
                partition_assignment_strategy=(assignor,),
                auto_offset_reset="latest",
            )

        consumer = self._consumer = await self._connection.start(make)
        async with self._connection.bounded("joining a group"):
            await self._connection.wait_for_topics(consumer._client, {self._anchor})
        joined = asyncio.Event()
        consumer.subscribe([self._anchor], listener=_rebalance_listener(self, joined))
        self._pump = asyncio.create_task(self._read_errors(), name=f"membership of {self._group}")
        limit_s = settings.session_timeout_s + settings.rebalance_timeout_s + settings.request_timeout_s
        try:
            async with self._connection.bounded(f"joining group {self._group!r}", limit_s):
                await joined.wait()
        except BaseException:
            await self.leave()
            raise

    async def confirm(self) -> None:
        """Commit an offset on the anchor topic: only a member of the current generation may."""
        owned, generation = self._owned, self._generation
        try:
            # A generation of -1 would be a commit from outside the group, which a group without members accepts.
            if not owned or generation < 0 or self._current_generation() != generation:
                raise self._lost("it owns nothing in the current generation")
            async with self._connection.bounded("confirming ownership"):
                await self._consumer.commit({TopicPartition(self._anchor, number): 0 for number in owned})
            if self._current_generation() != generation:
                raise self._lost("it has rejoined meanwhile")
        except BrokerError as error:
            if isinstance(error.__cause__, _LOST):
                raise self._lost(str(error.__cause__)) from error
            raise

    async def leave(self) -> None:
        """Leave the group; the listener lets go first of what is still owned."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        await self._revoke()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        await quietly(consumer.stop(), self._connection.settings.request_timeout_s)

    async def _assign(self, owned: frozenset[int]) -> None:
        async with self._telling:
            self._owned = owned
            self._generation = self._current_generation()
            if self._listener is not None:
                await self._listener.assigned(owned)

    async def _revoke(self) -> None:
        async with self._telling:
            if self._owned and self._listener is not None:
                await self._listener.revoked(self._owned)
            self._owned = frozenset()

    def _current_generation(self) -> int:
        return -1 if self._consumer is None else int(self._consumer._coordinator.generation)

    def _lost(self, reason: str) -> OwnershipLost:
        return OwnershipLost(
            f"group {self._group!r} has moved on without this member ({reason}); "
            f"partitions {sorted(self._owned)} may have another owner"
        )

    async def _read_errors(self) -> None:
        """aiokafka stops coordinating after an error until somebody has read it by polling."""
        consumer = self._consumer
        while True:
            try:
                await consumer.getmany(timeout_ms=1000)
            except kafka_errors.ConsumerStoppedError:
                return
            except kafka_errors.KafkaError as error:
                log.warning("membership of group %s: %r; trying again", self._group, error)
                await asyncio.sleep(0.5)


def _rebalance_listener(membership: KafkaMembership, joined: asyncio.Event) -> Any:
    """Return aiokafka's kind of listener. It swallows what a listener raises, so that is logged here with its stack."""

    class Listener(_listener_class):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: object) -> None:
            try:
                await membership._revoke()
            except Exception:
                log.exception("letting go of partitions of group %s failed", membership._group)

        async def on_partitions_assigned(self, assigned: Any) -> None:
            try:
                if membership._consumer is not None:
                    membership._consumer.pause(*assigned)
                    await membership._assign(frozenset(p.partition for p in assigned))
            except Exception:
                log.exception("taking over partitions of group %s failed", membership._group)
            finally:
                joined.set()

    return Listener()


_LOST = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalStateError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownError,
)
