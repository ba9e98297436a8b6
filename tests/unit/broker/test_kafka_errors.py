"""What is said of errors of aiokafka."""

from __future__ import annotations

from aiokafka.errors import IllegalStateError

from streams.broker.kafka.client import Connection
from streams.broker.kafka.settings import KafkaSettings


def test_the_name_of_an_error_is_said_once() -> None:
    connection = Connection(KafkaSettings(bootstrap_servers="kafka:9092"), {})
    assert str(connection.translate(IllegalStateError("Not subscribed"), "committing")) == (
        "Kafka at kafka:9092 failed while committing: IllegalStateError: Not subscribed"
    )
