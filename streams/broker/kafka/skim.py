"""Records straight from fetched batches, for those that look at every one: meters, which need no value, and restores.

A consumer makes two objects of each record before anybody sees it, which is most of what reading a small record costs.
Here batches are walked as they came (aiokafka's C decoder, and its handling of aborted transactions), and each record
is one small tuple: three times as many a second as through `Reader.poll`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from streams.broker.port import Partition, Skimmed, SkimmedRecord

_NO_ERROR = 0
# What an answer may hold: decoded in one go, so it bounds for how long the event loop does nothing else (some 10 ms).
_ANSWER_BYTES = 2_097_152
_PARTITION_BYTES = 1_048_576
_fetch_request: Any = FetchRequest
_memory_records: Any = MemoryRecords
_partition_records: Any = PartitionRecords


class _Scanning(_partition_records):  # type: ignore[misc]
    """aiokafka's walk over batches and aborted transactions, with tuples in place of its record objects.

    A tuple holds nothing that the garbage collector has to look at: with all headers kept, that was most of the time.
    """

    def _consumer_record(self, _tp: Any, record: Any) -> SkimmedRecord:
        return record.offset, record.timestamp, record.key, record.value


class _Skimming(_Scanning):
    """The same, with one header in place of the value."""

    def __init__(self, header: str, *batches: Any) -> None:
        super().__init__(*batches)
        self._header = header

    def _consumer_record(self, _tp: Any, record: Any) -> SkimmedRecord:
        for name, value in record.headers:
            if name == self._header:
                return record.offset, record.timestamp, record.key, value
        return record.offset, record.timestamp, record.key, None


async def skim(client: Any, positions: Mapping[Partition, int], header: str | None) -> dict[Partition, Skimmed]:
    """Return committed records from each position on; see `streams.broker.port.Admin`.

    Args:
        client: aiokafka's client, which knows the topics already.
        header: Returned with each record in place of its value; None for the value.

    Raises:
        KafkaError: A broker cannot be reached.
    """
    by_leader: dict[int, dict[str, list[tuple[int, int, int]]]] = defaultdict(lambda: defaultdict(list))
    for partition, offset in positions.items():
        leader = client.cluster.leader_for_partition(TopicPartition(*partition))
        if leader is not None and leader >= 0:
            by_leader[leader][partition.topic].append((partition.number, offset, _PARTITION_BYTES))
    requests = [
        client.send(leader, _fetch_request(0, 0, _ANSWER_BYTES, READ_COMMITTED, list(topics.items())))
        for leader, topics in by_leader.items()
    ]
    found: dict[Partition, Skimmed] = {}
    for response in await asyncio.gather(*requests):
        for topic, partitions in response.topics:
            for number, error, _high_watermark, _stable, *_rest in partitions:
                if error == _NO_ERROR:
                    partition = Partition(topic, number)
                    aborted = _rest[-3] if response.API_VERSION >= 11 else _rest[-2]
                    found[partition] = _walk(partition, positions[partition], _rest[-1], aborted, header)
    return found


def _walk(partition: Partition, position: int, data: bytes | None, aborted: Any, header: str | None) -> Skimmed:
    source, records = TopicPartition(*partition), _memory_records(data or b"")
    batches: Any
    if header is None:
        batches = _Scanning(source, records, aborted, position, None, None, True, READ_COMMITTED)
    else:
        batches = _Skimming(header, source, records, aborted, position, None, None, False, READ_COMMITTED)
    found = list(batches)
    return Skimmed(int(batches.next_fetch_offset), found)
