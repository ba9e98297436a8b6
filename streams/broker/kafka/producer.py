"""Writing without transactions: one idempotent aiokafka producer, replaced when it has died.

Messages of concurrent calls are collected by partition and leave as one batch while the batch before is on its way, so
that load makes batches larger instead of queues longer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Self

from aiokafka import errors as kafka_errors

from streams.broker.kafka.batches import Batch, check_size, place_of
from streams.broker.kafka.client import Connection, quietly
from streams.broker.port import Message


class KafkaProducer:
    """See `streams.broker.port.Producer`."""

    def __init__(self, connection: Connection, linger_ms: int) -> None:
        self._connection = connection
        self._linger_s = linger_ms / 1000
        self._producer: Any = None
        self._replacing = asyncio.Lock()
        self._waiting: dict[tuple[str, int], deque[_SharedBatch]] = {}
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._producer = await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pumps:
            await asyncio.wait(self._pumps, timeout=self._connection.settings.request_timeout_s)
        for pump in self._pumps:
            pump.cancel()
        if self._producer is not None:
            await quietly(self._producer.stop(), 5.0)

    async def send(self, *messages: Message) -> tuple[int, ...]:
        """Write *messages*; see the port."""
        if not messages:
            return ()
        limit_bytes = self._connection.settings.max_request_bytes
        for message in messages:
            check_size(message, limit_bytes)
        async with self._connection.bounded("writing"):
            client = self._producer.client
            cluster = client.cluster
            if any(cluster.partitions_for_topic(m.topic) is None for m in messages):
                await self._connection.wait_for_topics(client, {m.topic for m in messages})
            places = [place_of(message, cluster) for message in messages]
            call = _Call(len(messages))
            now_ms = int(time.time() * 1000)
            for index, (message, place) in enumerate(zip(messages, places, strict=True)):
                self._batch_for(place, message, now_ms).calls.append((call, index))
            await call.done
        return tuple(call.offsets)

    def _batch_for(self, place: tuple[str, int], message: Message, now_ms: int) -> _SharedBatch:
        """Put *message* into a batch that has not left yet, and see to it that it leaves."""
        waiting = self._waiting.get(place)
        if waiting is None:
            waiting = self._waiting[place] = deque()
            pump = asyncio.create_task(self._pump(place, waiting), name=f"writing {place[0]}[{place[1]}]")
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)
        if not waiting or waiting[-1].batch.add(message, now_ms) < 0:
            batch = Batch(place, self._producer.create_batch())
            batch.add(message, now_ms)
            waiting.append(_SharedBatch(batch))
        return waiting[-1]

    async def _pump(self, place: tuple[str, int], waiting: deque[_SharedBatch]) -> None:
        """Send the batches of one partition, one after the other, until there are none."""
        try:
            if self._linger_s:
                await asyncio.sleep(self._linger_s)
            while waiting:
                shared = waiting.popleft()
                try:
                    shared.succeed(await self._write(shared.batch))
                except Exception as error:
                    shared.fail(error)
                except asyncio.CancelledError:
                    waiting.appendleft(shared)
                    raise
        finally:
            del self._waiting[place]
            for shared in waiting:
                shared.fail(kafka_errors.ProducerClosed())

    async def _write(self, batch: Batch) -> int:
        producer = self._producer
        if producer._sender.sender_task.done():
            producer = await self._replace(producer)
        topic, number = batch.place
        metadata = await (await producer.send_batch(batch.builder, topic, partition=number))
        return int(metadata.offset)

    async def _start(self) -> Any:
        return await self._connection.start(lambda: self._connection.producer("producer", enable_idempotence=True))

    async def _replace(self, dead: Any) -> Any:
        """An idempotent producer whose sequence broke refuses everything from then on; a new one starts afresh."""
        async with self._replacing:
            if self._producer is dead:
                self._producer = await self._start()
                await quietly(dead.stop(), 1.0)
            return self._producer


class _Call:
    """One call of `send`, which waits for the batches that its messages went into."""

    __slots__ = ("done", "left", "offsets")

    def __init__(self, messages: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = messages
        self.offsets = [0] * messages


class _SharedBatch:
    """A batch, and whose messages are in it, in their order."""

    __slots__ = ("batch", "calls")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.calls: list[tuple[_Call, int]] = []

    def succeed(self, base_offset: int) -> None:
        for relative, (call, index) in enumerate(self.calls):
            call.offsets[index] = base_offset + relative
            call.left -= 1
            if call.left == 0 and not call.done.done():
                call.done.set_result(None)

    def fail(self, error: Exception) -> None:
        for call, _ in self.calls:
            if not call.done.done():
                call.done.set_exception(error)
