"""Reading hand-assigned partitions with one aiokafka consumer that is a member of no group.

A paused partition is one that a poll does not ask for: what was fetched of it stays in the buffer, so that `resume`
finds it there. aiokafka's own pause drops the buffer, and fetching it again waits for a long poll to end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors

from streams.broker.kafka.client import PREFETCH_BACKOFF_S, Connection, quietly
from streams.broker.port import Isolation, LogRecord, Partition
from streams.errors import BrokerError, PositionOutOfRange

Bounds = Callable[[Partition], Awaitable[tuple[int, int]]]


class KafkaReader:
    """See `streams.broker.port.Reader`.

    Args:
        bounds: Asks the log for beginning and end of a partition, for the message of `PositionOutOfRange`.
    """

    def __init__(self, connection: Connection, isolation: Isolation, group: str | None, bounds: Bounds) -> None:
        self._connection = connection
        self._isolation = isolation
        self._group = group
        self._bounds = bounds
        self._consumer: Any = None
        self._assigned: tuple[TopicPartition, ...] = ()
        self._assigned_at_ms = 0.0
        self._paused: set[TopicPartition] = set()
        self._waiter: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        def make() -> Any:
            return self._connection.consumer("reader", group_id=self._group, isolation_level=self._isolation)

        self._consumer = await self._connection.start(make)
        # Private, but without it a poll that leaves records in the buffer delays all others; checked by a test.
        self._consumer._fetcher._prefetch_backoff = PREFETCH_BACKOFF_S
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._consumer is not None:
            await quietly(self._consumer.stop(), 5.0)

    async def assign(self, positions: Mapping[Partition, int]) -> None:
        """Replace the assignment; see the port."""
        consumer = self._consumer
        self._paused.clear()
        self._assigned = tuple(TopicPartition(*p) for p in positions)
        if not positions:
            consumer.unsubscribe()
            return
        async with self._connection.bounded("assigning partitions"):
            await self._connection.wait_for_topics(consumer._client, {p.topic for p in positions})
            for partition in positions:
                if partition.number not in consumer.partitions_for_topic(partition.topic):
                    raise self._connection.translate(
                        kafka_errors.UnknownTopicOrPartitionError(f"{partition.topic}[{partition.number}]"), "assigning"
                    )
            consumer.assign(self._assigned)
            for partition, offset in positions.items():
                consumer.seek(TopicPartition(*partition), offset)
        self._assigned_at_ms = time.time() * 1000

    async def poll(
        self, partitions: Collection[Partition] = (), *, max_records: int = 500, timeout_s: float = 1.0
    ) -> dict[Partition, list[LogRecord]]:
        """Return what has arrived; see the port. Raises BrokerUnavailable once nothing was heard for too long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        asked = tuple(TopicPartition(*p) for p in partitions)
        try:
            while not (fetched := await self._buffered(asked, max_records)):
                if (left_s := deadline - loop.time()) <= 0:
                    self._raise_if_silent(asked)
                    return {}
                await self._news(loop, left_s)
        except kafka_errors.OffsetOutOfRangeError as error:
            raise await self._out_of_range(error) from error
        except (kafka_errors.KafkaError, kafka_errors.ConsumerStoppedError) as error:
            raise self._connection.translate(error, "reading") from error
        return {
            Partition(*source): [
                LogRecord(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in records
            ]
            for source, records in fetched.items()
        }

    def pause(self, partitions: Collection[Partition]) -> None:
        """Stop returning records of *partitions*."""
        self._paused.update(TopicPartition(*p) for p in partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        """Undo `pause`, and let a poll that waits look again."""
        self._paused.difference_update(TopicPartition(*p) for p in partitions)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def position(self, partition: Partition) -> int:
        """Offset of the next record to be returned."""
        async with self._connection.bounded("asking for a position"):
            return int(await self._consumer.position(TopicPartition(*partition)))

    async def seek(self, partition: Partition, offset: int) -> None:
        """Continue *partition* at *offset*."""
        async with self._connection.bounded("seeking"):
            self._consumer.seek(TopicPartition(*partition), offset)

    async def commit(self, positions: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None) -> None:
        """Commit *positions* to the reader's memberless group."""
        if self._group is None:
            raise ValueError("this reader has no group to commit to; make it with reader(group=...)")
        if positions:
            known = notes or {}
            async with self._connection.bounded("committing positions"):
                await self._consumer.commit(
                    {TopicPartition(*p): (offset, known.get(p, "")) for p, offset in positions.items()}
                )

    async def _buffered(self, asked: tuple[TopicPartition, ...], max_records: int) -> dict[TopicPartition, list[Any]]:
        """Take what is in the buffer and may be returned."""
        if self._paused:
            asked = tuple(p for p in asked or self._assigned if p not in self._paused)
            if not asked:
                return {}
        fetched: dict[TopicPartition, list[Any]] = await self._consumer.getmany(*asked, max_records=max_records)
        return fetched

    async def _news(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Wait until something was fetched or resumed. The waiter is aiokafka's own, which getmany waits on too."""
        waiter = self._waiter = self._consumer._fetcher._create_fetch_waiter()
        timer = loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    async def _out_of_range(self, error: kafka_errors.OffsetOutOfRangeError) -> BrokerError:
        source, offset = next(iter(error.args[0].items()))
        partition = Partition(*source)
        begin, end = await self._bounds(partition)
        return PositionOutOfRange(
            f"position {offset} of {partition.topic}[{partition.number}] is outside the log ({begin} to {end}); "
            "retention has passed it or the topic was made anew, so records are missing"
        )

    def _raise_if_silent(self, asked: tuple[TopicPartition, ...]) -> None:
        """Raise when no fetch of any partition that should be read was answered within the request timeout."""
        consumer = self._consumer
        heard_ms = [
            max(consumer.last_poll_timestamp(p) or 0.0, self._assigned_at_ms)
            for p in asked or self._assigned
            if p not in self._paused
        ]
        silent_s = time.time() - max(heard_ms) / 1000 if heard_ms else 0.0
        if silent_s > self._connection.settings.request_timeout_s + 1.0:
            raise self._connection.unavailable(f"has not answered for {silent_s:.0f} s")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
