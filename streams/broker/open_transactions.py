"""Whether fencing has done what Kafka promises: that nothing of an earlier owner is open any more.

Kafka 4.3.0 and 4.3.1 break that promise when a broker died in the middle of a transaction (KAFKA-20734): the
coordinator takes a partition without a leader for one that was deleted, calls the transaction ended, and writes no
marker. Its records stay hidden until the next transaction of the same producer ends, and then share its fate: an
aborted one is committed. So an owner must not write before it has looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from streams.broker.port import Broker, Partition
from streams.errors import BrokerError


async def check_nothing_open(broker: Broker, partitions: Collection[Partition]) -> None:
    """Check that no transaction is open on partitions that one ring alone writes, right after it was started.

    Raises:
        BrokerError: One is; with the partition, what it hides, and how to end it.
    """
    stable, ends = await asyncio.gather(
        broker.admin.end_offsets(partitions), broker.admin.end_offsets(partitions, isolation="read_uncommitted")
    )
    for partition in partitions:
        if stable[partition] < ends[partition]:
            raise BrokerError(
                f"a transaction of an earlier owner is still open on {partition.topic}[{partition.number}] from offset "
                f"{stable[partition]} to {ends[partition]} although it was fenced; Kafka 4.3.0 and 4.3.1 lose markers "
                "when a broker dies (KAFKA-20734): run another version, and end the transaction with "
                "`kafka-transactions.sh find-hanging` and `abort`"
            )
