"""Opening the connection that settings describe; the one place where a process chooses the Kafka adapter."""

from __future__ import annotations

from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker


def open_broker(settings: KafkaSettings) -> Broker:
    """Return a connection to Kafka; make it inside a running event loop. Nothing connects until it is used."""
    from streams.broker.kafka.broker import KafkaBroker  # aiokafka takes a third of a second to import

    return KafkaBroker(settings)
