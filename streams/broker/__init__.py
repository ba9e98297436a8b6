"""The log: the port (`port.py`) that everything else is written against, its adapters for Kafka (`kafka/`) and for a
simulated log in memory (`simulated/`), the table that follows a compacted topic, and the embedded Kafka.

Others import the port's types from here; adapters are imported by name where a process is put together, so that nothing
but that place needs aiokafka.
"""

from streams.broker.partitioning import partition_for
from streams.broker.port import (
    Admin,
    Broker,
    Committed,
    Headers,
    Isolation,
    LogRecord,
    Membership,
    Message,
    OwnershipListener,
    Partition,
    Producer,
    Reader,
    Ring,
    Skimmed,
    TopicSpec,
)

__all__ = [
    "Admin",
    "Broker",
    "Committed",
    "Headers",
    "Isolation",
    "LogRecord",
    "Membership",
    "Message",
    "OwnershipListener",
    "Partition",
    "Producer",
    "Reader",
    "Ring",
    "Skimmed",
    "TopicSpec",
    "partition_for",
]
