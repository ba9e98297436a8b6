"""Records packed into batches by partition, the way both producers hand them to aiokafka.

One future per batch instead of one per record is most of what a small record costs on the client.
"""

from __future__ import annotations

from typing import Any

from streams.broker.partitioning import partition_for
from streams.broker.port import Message
from streams.errors import RecordTooLarge, TopicError

# What a record adds to its key, value and headers in a batch of its own: 61 bytes of batch header and its own varints.
_OVERHEAD_BYTES = 100


class Batch:
    """A batch of one partition that is being filled."""

    __slots__ = ("builder", "place", "size")

    def __init__(self, place: tuple[str, int], builder: Any) -> None:
        self.place = place
        self.builder = builder
        self.size = 0

    def add(self, message: Message, now_ms: int) -> int:
        """Append *message* and return its place in the batch; -1 when the batch is full."""
        added = self.builder.append(
            timestamp=now_ms, key=message.key, value=message.value, headers=list(message.headers)
        )
        if added is None:
            return -1
        self.size += 1
        return self.size - 1


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


def place_of(message: Message, cluster: Any) -> tuple[str, int]:
    """Return topic and partition that *message* goes to.

    Args:
        cluster: aiokafka's view of the cluster, which knows the topic already.

    Raises:
        TopicError: The topic does not have the partition.
        ValueError: The message has neither partition nor key, or neither key nor value.
    """
    partitions = cluster.partitions_for_topic(message.topic)
    if message.key is None and message.value is None:
        raise ValueError(f"message for {message.topic!r} has neither key nor value")
    if message.partition is None:
        if message.key is None:
            raise ValueError(f"message for {message.topic!r} has neither key nor partition")
        return message.topic, partition_for(message.key, len(partitions))
    if message.partition not in partitions:
        raise TopicError(
            f"partition {message.partition} of topic {message.topic!r} does not exist; it has {len(partitions)}"
        )
    return message.topic, message.partition
