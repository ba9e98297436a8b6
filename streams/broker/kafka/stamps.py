"""Timestamps of records, from the headers of their batches: one batch a partition is fetched, and nothing is decoded.

A batch begins with its length, its attributes and the timestamp of its first record, whatever its compression (Kafka's
record batch format, magic 2). That is what the age of a backlog needs, for hundreds of partitions and twice a second.
Each partition is a request of its own, all of them under way together: a broker answers the first partition of a
request with a whole batch however little is asked for (KIP-74), and the others with nothing.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.protocol.fetch import FetchRequest

from streams.broker.port import Partition

_READ_UNCOMMITTED = 0
_NO_ERROR = 0
_ASKED_BYTES = 1
# Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and latest timestamp.
_HEADER = struct.Struct(">qiibIhiqq")
_MAGIC = 2
_LOG_APPEND_TIME = 8
_fetch_request: Any = FetchRequest


async def stamps_at(client: Any, positions: Mapping[Partition, int]) -> dict[Partition, int]:
    """Return the base timestamp, in ms since the epoch, of the batch at each position.

    Args:
        client: aiokafka's client, which knows the topics already.

    Raises:
        KafkaError: A broker cannot be reached.
    """
    requests = []
    for partition, offset in positions.items():
        leader = client.cluster.leader_for_partition(TopicPartition(*partition))
        if leader is not None and leader >= 0:
            topics = [(partition.topic, [(partition.number, offset, _ASKED_BYTES)])]
            requests.append(client.send(leader, _fetch_request(0, 0, _ASKED_BYTES, _READ_UNCOMMITTED, topics)))
    found: dict[Partition, int] = {}
    for response in await asyncio.gather(*requests):
        for topic, partitions in response.topics:
            for number, error, _high_watermark, *_, records in partitions:
                stamp = first_stamp(records or b"") if error == _NO_ERROR else None
                if stamp is not None:
                    found[Partition(topic, number)] = stamp
    return found


def first_stamp(records: bytes) -> int | None:
    """Return the timestamp of the first batch in *records*; None where there is none, or one of an old format."""
    if len(records) < _HEADER.size:
        return None
    _offset, _length, _epoch, magic, _crc, attributes, _last, first_ms, latest_ms = _HEADER.unpack_from(records)
    if magic != _MAGIC:
        return None
    # With LogAppendTime the broker stamps the whole batch, in the one field that it may change.
    return int(latest_ms if attributes & _LOG_APPEND_TIME else first_ms)
