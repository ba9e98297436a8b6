"""A broker that dies and comes back: who waits, who raises, and what is lost (nothing)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams.broker import LogRecord, Message, Partition, Reader
from streams.broker.embedded import EmbeddedKafka
from streams.broker.kafka import KafkaBroker, KafkaSettings
from streams.broker.kafka.transactions import KafkaTransactions
from streams.broker.open_transactions import check_nothing_open
from streams.broker.table import Table, read_to_end
from streams.errors import BrokerError, BrokerUnavailable, CommitAmbiguous
from tests.integration.broker_worlds import new_topic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Cluster:
    """A Kafka of the test's own that it may stop."""

    def __init__(self, kafka: EmbeddedKafka) -> None:
        self._kafka = kafka
        self.broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka.bootstrap, request_timeout_s=3))

    async def stop(self) -> None:
        await asyncio.to_thread(self._kafka.stop, at_once=True)

    async def start(self) -> None:
        await asyncio.to_thread(self._kafka.start)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    kafka = EmbeddedKafka(tmp_path)
    await asyncio.to_thread(kafka.start)
    cluster = Cluster(kafka)
    yield cluster
    await cluster.broker.close()
    await cluster.stop()


class Told:
    async def assigned(self, partitions: frozenset[int]) -> None: ...
    async def revoked(self, partitions: frozenset[int]) -> None: ...


async def test_everyone_goes_on_after_a_restart(cluster: Cluster) -> None:
    broker = cluster.broker
    topic, anchor = await new_topic(broker), await new_topic(broker)
    place = Partition(topic, 0)
    seen: list[bytes | None] = []

    def keep(record: LogRecord) -> None:
        seen.append(record.value)

    table = Table(broker, [place])
    table.on_record(keep)
    membership, ring = broker.membership("group", anchor), broker.ring("ring")
    await membership.start(Told())
    await ring.start()
    async with table, broker.producer() as producer, broker.reader() as reader:
        await reader.assign({place: 0})
        await producer.send(Message(topic, b"k", b"before"))
        await ring.transact([Message(topic, b"k", b"transaction")])
        assert await _values(reader, 2) == [b"before", b"transaction"]
        await cluster.stop()

        with pytest.raises(BrokerUnavailable, match="STREAMS_KAFKA__BOOTSTRAP_SERVERS"):
            await producer.send(Message(topic, b"k", b"while it is away"))
        with pytest.raises(BrokerUnavailable):
            await broker.admin.end_offsets([place])
        with pytest.raises(BrokerUnavailable, match="has not answered for"):
            await _poll_for(reader, 10)
        with pytest.raises(BrokerError):
            await membership.confirm()
        with pytest.raises((BrokerUnavailable, CommitAmbiguous)):
            await ring.transact([Message(topic, b"k", b"nobody sees this")])
        await ring.close()
        assert _senders() == 1, "senders of the ring go on beside the producer's"

        await cluster.start()
        # Idempotent: what timed out is still tried, and written once at most.
        await producer.send(Message(topic, b"k", b"after"))
        assert await _values(reader, 2) in ([b"while it is away", b"after"], [b"after"])
        successor = broker.ring("ring")
        await successor.start()
        await successor.transact([Message(topic, b"k", b"successor")])
        assert await _values(reader, 1) == [b"successor"]
        async with asyncio.timeout(20):
            while seen[-1:] != [b"successor"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            while not membership.owned:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await membership.confirm()
        await successor.close()
        await membership.leave()
    stored = [r.value async for batch in read_to_end(broker, [place]) for r in batch]
    assert seen == stored
    assert b"nobody sees this" not in stored
    assert len(stored) == len(set(stored))


def _senders() -> int:
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum("_sender_routine" in name for name in names)


@pytest.mark.long
async def test_what_a_dead_broker_leaves_open_is_ended_before_a_successor_reads(cluster: Cluster) -> None:
    """Fails on Kafka 4.3.0 and 4.3.1, in three rounds of four (KAFKA-20734); see `streams.broker.open_transactions`."""
    broker = cluster.broker
    topic = await new_topic(broker, partitions=4)
    places = [Partition(topic, number) for number in range(4)]
    abandoned: list[KafkaTransactions] = []
    for _ in range(3):
        for place in places:
            transactions = KafkaTransactions(broker._connection, f"owner-{place.number}", 2_000)
            await transactions.start()
            await transactions.write([Message(topic, b"k", b"never committed", place.number)])
            abandoned.append(transactions)
        await cluster.stop()
        await cluster.start()
        for place in places:
            successor = KafkaTransactions(broker._connection, f"owner-{place.number}", 2_000)
            await successor.start()
            await successor.stop(1)
        await check_nothing_open(broker, places)
    stored = [r.value async for batch in read_to_end(broker, places) for r in batch]
    assert stored == []
    for transactions in abandoned:
        await transactions.stop(0.1)


async def test_a_transaction_that_is_left_open_is_named(cluster: Cluster) -> None:
    broker = cluster.broker
    topic = await new_topic(broker)
    owner = KafkaTransactions(broker._connection, "owner", 10_000)
    await owner.start()
    await owner.write([Message(topic, b"k", b"open", 0)])
    with pytest.raises(BrokerError, match=rf"open on {topic}\[0\] from offset 0 to 1.*KAFKA-20734"):
        await check_nothing_open(broker, [Partition(topic, 0)])
    successor = KafkaTransactions(broker._connection, "owner", 10_000)
    await successor.start()
    await check_nothing_open(broker, [Partition(topic, 0)])
    await successor.stop(1)
    await owner.stop(0.1)


async def _poll_for(reader: Reader, seconds: int) -> None:
    for _ in range(seconds):
        await reader.poll(timeout_s=1)


async def _values(reader: Reader, count: int) -> list[bytes | None]:
    found: list[bytes | None] = []
    for _ in range(60):
        try:
            batches = await reader.poll(timeout_s=0.5)
        except BrokerUnavailable:
            continue
        found += [record.value for records in batches.values() for record in records]
        if len(found) >= count:
            break
    return found
