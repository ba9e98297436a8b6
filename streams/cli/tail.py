"""Reading all partitions of a topic from the command line: what is there, or on and on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from streams.errors import TopicError

if TYPE_CHECKING:
    from streams.broker.port import Broker, LogRecord


async def records(broker: Broker, topic: str, *, from_beginning: bool, follow: bool) -> AsyncGenerator[list[LogRecord]]:
    """Yield committed records in the order of their times, as far as they arrive together.

    Args:
        from_beginning: Start with what is there, rather than with what comes from now on.
        follow: Go on when the end is reached; otherwise end there.

    Raises:
        TopicError: The topic does not exist.
    """
    from streams.broker.port import Partition

    found = await broker.admin.describe([topic], with_config=False)
    if topic not in found:
        raise TopicError(
            f"topic {topic} does not exist on {broker.address}; correct the namespace, or create it with "
            "`streams topics create MODULE:APP`"
        )
    places = [Partition(topic, number) for number in range(found[topic].partitions)]
    ends = await broker.admin.end_offsets(places)
    begins = await broker.admin.begin_offsets(places) if from_beginning else ends
    async with broker.reader() as reader:
        await reader.assign(begins)
        while True:
            if not follow and all([await reader.position(place) >= ends[place] for place in places]):
                return
            arrived = await reader.poll(max_records=1_000, timeout_s=0.5)
            batch = [record for several in arrived.values() for record in several]
            if batch:
                yield sorted(batch, key=lambda record: record.timestamp_ms)
