"""The servers that a test session gets, wherever they come from, can do what the product needs."""

from __future__ import annotations

from uuid import uuid4

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def test_kafka_commits_transactions_that_a_reader_sees(kafka: str) -> None:
    """Markers travel from the broker to itself, which fails where only its outer address is right."""
    topic = f"fixture-{uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic)
    await producer.start()
    for _ in range(2):  # the second waits for the first one's markers
        async with producer.transaction():
            await producer.send(topic, b"value")
    await producer.stop()

    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    records = [await consumer.getone() for _ in range(2)]
    await consumer.stop()
    assert [record.value for record in records] == [b"value", b"value"]


def test_postgres_is_there(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT current_setting('server_encoding')").fetchone() == ("UTF8",)
