"""Writing without transactions: one idempotent aiokafka producer, replaced when it has died."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from streams.broker.kafka.client import Connection, quietly
from streams.broker.partitioning import partition_for
from streams.broker.port import Message
from streams.errors import RecordTooLarge, TopicError

# What a record adds to its key, value and headers in a batch of its own: 61 bytes of batch header and its own varints.
_OVERHEAD_BYTES = 100


class KafkaProducer:
    """See `streams.broker.port.Producer`."""

    def __init__(self, connection: Connection, linger_ms: int) -> None:
        self._connection = connection
        self._linger_ms = linger_ms
        self._producer: Any = None
        self._replacing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._producer = await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            await quietly(self._producer.stop(), 5.0)

    async def send(self, *messages: Message) -> tuple[int, ...]:
        """Write *messages*; see the port."""
        producer = self._producer
        if producer._sender.sender_task.done():
            producer = await self._replace(producer)
        limit_bytes = self._connection.settings.max_request_bytes
        for message in messages:
            check_size(message, limit_bytes)
        async with self._connection.bounded("writing"):
            await self._connection.wait_for_topics(producer.client, {m.topic for m in messages})
            cluster = producer.client.cluster
            futures = [
                await producer.send(m.topic, m.value, m.key, partition_of(m, cluster), headers=list(m.headers))
                for m in messages
            ]
            written = await asyncio.gather(*futures)
        return tuple(metadata.offset for metadata in written)

    async def _start(self) -> Any:
        return await self._connection.start(
            lambda: self._connection.producer("producer", enable_idempotence=True, linger_ms=self._linger_ms)
        )

    async def _replace(self, dead: Any) -> Any:
        """An idempotent producer whose sequence broke refuses everything from then on; a new one starts afresh."""
        async with self._replacing:
            if self._producer is dead:
                self._producer = await self._start()
                await quietly(dead.stop(), 1.0)
            return self._producer


def check_size(message: Message, limit_bytes: int) -> None:
    """Raise RecordTooLarge when *message* is over *limit_bytes* as it would be written."""
    size = _OVERHEAD_BYTES + len(message.key or b"") + len(message.value or b"")
    for name, value in message.headers:
        size += len(name) + len(value) + 10
    if size > limit_bytes:
        raise RecordTooLarge(
            f"record of {size} bytes for topic {message.topic!r} exceeds {limit_bytes} bytes "
            "(STREAMS_KAFKA__MAX_REQUEST_BYTES); store the payload elsewhere and pass a reference"
        )


def partition_of(message: Message, cluster: Any) -> int:
    """Return the partition that *message* goes to.

    Raises:
        TopicError: The topic does not have it.
        ValueError: The message has neither partition nor key, or neither key nor value.
    """
    partitions = cluster.partitions_for_topic(message.topic)
    if message.key is None and message.value is None:
        raise ValueError(f"message for {message.topic!r} has neither key nor value")
    if message.partition is None:
        if message.key is None:
            raise ValueError(f"message for {message.topic!r} has neither key nor partition")
        return partition_for(message.key, len(partitions))
    if message.partition not in partitions:
        raise TopicError(
            f"partition {message.partition} of topic {message.topic!r} does not exist; it has {len(partitions)}"
        )
    return message.partition
