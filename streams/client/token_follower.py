"""Following what models write while they write it: pieces of answers, from the topic `tokens`, best effort.

One reader serves all handles of a client. It begins when the first of them follows, and ends with the last; what was
written before is not told. A slow follower loses pieces, as a gap of their index shows; the result has all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence

from streams.broker.port import Broker, Partition, Reader
from streams.errors import BrokerError, CodecError
from streams.records import decode_as
from streams.records.ids import agent_of
from streams.records.steps import TokenChunk

log = logging.getLogger(__name__)

MAX_PIECES = 1_000
"""Pieces kept for a follower that does not take them."""
RETRY_S = 0.5


class TokenFollower:
    """Hands pieces to those who follow their invocation.

    Args:
        partitions: Of the topic `tokens`.
    """

    def __init__(self, broker: Broker, partitions: Sequence[Partition]) -> None:
        self._broker = broker
        self._partitions = tuple(partitions)
        self._followers: dict[str, set[asyncio.Queue[TokenChunk]]] = defaultdict(set)
        self._agents: Counter[bytes] = Counter()
        self._reading: asyncio.Task[None] | None = None
        self.missed = 0

    async def follow(self, invocation: str) -> AsyncGenerator[TokenChunk]:
        """Yield the pieces of an invocation's answers that are written from now on, for ever; close it to stop."""
        pieces: asyncio.Queue[TokenChunk] = asyncio.Queue(MAX_PIECES)
        self._followers[invocation].add(pieces)
        agent = agent_of(invocation).encode()
        self._agents[agent] += 1
        try:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_for_ever(), name="tokens")
            while True:
                yield await pieces.get()
        finally:
            self._followers[invocation].discard(pieces)
            if not self._followers[invocation]:
                del self._followers[invocation]
            self._agents -= Counter((agent,))  # one that comes to nothing is forgotten
            if not self._followers:
                await self.aclose()

    async def aclose(self) -> None:
        """Stop reading."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait((reading,))

    async def _read_for_ever(self) -> None:
        while True:
            try:
                ends = await self._broker.admin.end_offsets(self._partitions)
                async with self._broker.reader() as reader:
                    await reader.assign(ends)
                    await self._read(reader)
            except BrokerError as error:
                log.warning("pieces of answers cannot be followed: %s; trying again", error)
                await asyncio.sleep(RETRY_S)

    async def _read(self, reader: Reader) -> None:
        while True:
            for records in (await reader.poll(max_records=2_000, timeout_s=1.0)).values():
                for record in records:
                    if record.key in self._agents:
                        self._hand_on(record.value or b"")

    def _hand_on(self, data: bytes) -> None:
        try:
            chunk = decode_as(TokenChunk, data)
        except CodecError:
            return  # best effort: another version's pieces are not for this one
        for pieces in self._followers.get(chunk.invocation, ()):
            if pieces.full():
                pieces.get_nowait()
                self.missed += 1
            pieces.put_nowait(chunk)
