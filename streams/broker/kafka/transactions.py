"""One transactional aiokafka producer of a ring. The order between producers is `streams.broker.ring`'s.

Records are packed into one batch per partition here, rather than sent one by one: a transaction then costs one future
per partition instead of one per record, which is most of what a small record costs on the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiokafka.producer.sender
from aiokafka import errors as kafka_errors

from streams.broker.kafka.batches import Batch, check_size, place_of
from streams.broker.kafka.client import Connection, quietly
from streams.broker.port import Message
from streams.errors import BrokerError, BrokerUnavailable, CommitAmbiguous, Fenced

# How long aiokafka waits when the markers of a producer's previous transaction are not written yet. Its own 20 ms would
# be most of a transaction; markers take about one. Measured: 150 transactions/s with 20 ms, 900 with 1 ms, where a ring
# of two is kept busy by two callers.
_MARKERS_S = 0.001
_sender: Any = aiokafka.producer.sender


class KafkaTransactions:
    """See `streams.broker.ring.TransactionalProducer`."""

    def __init__(self, connection: Connection, transactional_id: str, timeout_ms: int) -> None:
        self._connection = connection
        self._id = transactional_id
        self._transaction_timeout_ms = timeout_ms
        # Beyond the transaction's timeout the coordinator has aborted it and fenced this producer anyway.
        self._timeout_s = min(connection.settings.request_timeout_s, timeout_ms / 1000)
        self._producer: Any = None

    async def start(self) -> None:
        """Start, which fences earlier owners of the ID."""
        _sender.BACKOFF_OVERRIDE = _MARKERS_S
        self._producer = await self._connection.start(
            lambda: self._connection.producer(
                self._id,
                transactional_id=self._id,
                transaction_timeout_ms=self._transaction_timeout_ms,
                # Ending the open transaction of a dead owner takes a few tries; every wait here delays a takeover.
                retry_backoff_ms=20,
            )
        )

    async def write(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Begin a transaction and write *messages*."""
        producer = self._producer
        client = producer.client
        cluster = client.cluster
        limit_bytes = self._connection.settings.max_request_bytes
        try:
            async with asyncio.timeout(self._timeout_s):
                for message in messages:
                    check_size(message, limit_bytes)
                    if cluster.partitions_for_topic(message.topic) is None:
                        await self._connection.wait_for_topics(client, {m.topic for m in messages})
                await producer.begin_transaction()
                now_ms = int(time.time() * 1000)
                filling: dict[tuple[str, int], Batch] = {}
                batches: list[Batch] = []
                found: list[tuple[Batch, int]] = []
                for message in messages:
                    place = place_of(message, cluster)
                    batch = filling.get(place)
                    relative = -1 if batch is None else batch.add(message, now_ms)
                    if batch is None or relative < 0:
                        batch = filling[place] = Batch(place, producer.create_batch())
                        batches.append(batch)
                        relative = batch.add(message, now_ms)
                    found.append((batch, relative))
                sent = [await producer.send_batch(b.builder, b.place[0], partition=b.place[1]) for b in batches]
                written = await asyncio.gather(*sent)
        except BrokerError:
            raise
        except TimeoutError as error:
            raise self._connection.unavailable(
                f"did not acknowledge a transaction of {self._id!r} within {self._timeout_s:g} s"
            ) from error
        except (kafka_errors.KafkaError, kafka_errors.IllegalOperation, AssertionError) as error:
            raise self._translate(error, "writing") from error
        base = {id(batch): metadata.offset for batch, metadata in zip(batches, written, strict=True)}
        return tuple(base[id(batch)] + relative for batch, relative in found)

    async def commit(self) -> None:
        """Commit what was written."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._producer.commit_transaction()
        except TimeoutError as error:
            raise CommitAmbiguous(
                f"no answer to a commit of {self._id!r} within {self._timeout_s:g} s; it may have happened, so this "
                "process must end, and the next owner learns the outcome from the log"
            ) from error
        except (kafka_errors.KafkaError, kafka_errors.IllegalOperation, AssertionError) as error:
            known = self._translate(error, "committing")
            if isinstance(known, Fenced):
                raise known from error
            raise CommitAmbiguous(f"commit of {self._id!r} failed, its outcome is unknown: {known}") from error

    async def stop(self, timeout_s: float) -> None:
        """Let go of the producer. An open transaction is aborted, so that it hides nobody's records."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        if producer._txn_manager.is_in_transaction():
            await quietly(producer.abort_transaction(), timeout_s)
        # Not producer.stop(): it waits for what was not written, for ever while the broker is away, and leaves a task
        # behind when it is given up. Here everything was acknowledged, or belongs to a transaction that is aborted.
        producer._closed = True
        for ending in (producer._sender.close, producer.client.close):
            await quietly(ending(), 1.0)
        _mark_as_read(producer)

    def _translate(self, error: BaseException, doing: str) -> BrokerError:
        # A fenced producer answers begin_transaction with an AssertionError about its state.
        if isinstance(error, _FENCED) or (isinstance(error, AssertionError) and self._is_dead()):
            return Fenced(
                f"producer {self._id!r} is fenced while {doing}: another owner has started, or a transaction "
                f"exceeded its {self._transaction_timeout_ms} ms; this process must let go of the partition"
            )
        known = self._connection.translate(error, doing)
        return known if not isinstance(known, BrokerUnavailable) else BrokerUnavailable(f"{known} (ring {self._id!r})")

    def _is_dead(self) -> bool:
        return bool(self._producer._txn_manager.is_fatal_error())


def _mark_as_read(producer: Any) -> None:
    """Read the errors that aiokafka left in futures of its own; they were raised already, unread they are logged."""
    futures = [producer._txn_manager._transaction_waiter]
    for batches in producer._message_accumulator._batches.values():
        futures += [future for batch in batches for future in (batch._drain_waiter, batch.future)]
    for future in futures:
        if future is not None and future.done() and not future.cancelled():
            future.exception()


_FENCED = (
    kafka_errors.ProducerFenced,
    kafka_errors.InvalidProducerEpoch,
    kafka_errors.InvalidTxnState,
    kafka_errors.InvalidProducerIdMapping,
    kafka_errors.TransactionCoordinatorFenced,
)
