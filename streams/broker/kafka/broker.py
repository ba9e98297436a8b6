"""A connection to Kafka: the factory of the adapter's parts."""

from __future__ import annotations

from streams.broker.kafka.admin import KafkaAdmin
from streams.broker.kafka.client import Connection
from streams.broker.kafka.membership import KafkaMembership
from streams.broker.kafka.producer import KafkaProducer
from streams.broker.kafka.reader import KafkaReader
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.kafka.transactions import KafkaTransactions
from streams.broker.port import Isolation, Partition
from streams.broker.ring import OrderedRing


class KafkaBroker:
    """See `streams.broker.port.Broker`. Make it inside a running event loop; nothing connects until it is used."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._connection = Connection.of(settings)
        self._admin = KafkaAdmin(self._connection)

    @property
    def address(self) -> str:
        """The bootstrap servers."""
        return self._connection.address

    @property
    def admin(self) -> KafkaAdmin:
        """Administration, over connections that all callers share."""
        return self._admin

    def reader(self, *, isolation: Isolation = "read_committed", group: str | None = None) -> KafkaReader:
        """Return a reader, not yet connected."""
        return KafkaReader(self._connection, isolation, group, self._bounds)

    def producer(self, *, linger_ms: int = 0) -> KafkaProducer:
        """Return a producer, not yet connected."""
        return KafkaProducer(self._connection, linger_ms)

    def ring(self, transactional_id: str, *, size: int = 2, timeout_ms: int = 10_000) -> OrderedRing:
        """Return a ring of *size* transactional producers, not yet connected."""
        names = [f"{transactional_id}-{number}" for number in range(size)]
        return OrderedRing(transactional_id, [KafkaTransactions(self._connection, name, timeout_ms) for name in names])

    def membership(self, group: str, anchor: str, *, instance_id: str | None = None) -> KafkaMembership:
        """Return a membership, not yet joined."""
        return KafkaMembership(self._connection, group, anchor, instance_id)

    async def connect(self) -> None:
        """Check that Kafka answers."""
        await self._admin.list_topics()

    async def close(self) -> None:
        """Close what is shared; readers, producers, rings and memberships are closed by who made them."""
        await self._admin.close()

    async def _bounds(self, partition: Partition) -> tuple[int, int]:
        begin = await self._admin.begin_offsets([partition])
        end = await self._admin.end_offsets([partition], isolation="read_uncommitted")
        return begin[partition], end[partition]
