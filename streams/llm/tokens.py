"""Sends answers to the `tokens` topic piece by piece while they are written. Best effort: the result has the whole.

Pieces that come within a moment travel in one record. `TokenChunk.index` counts the records of one call from 0; a call
that is repeated starts over at 0, and with it the text.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace

from streams.broker.port import Message, Producer
from streams.errors import StreamsError
from streams.llm.providers import OnText
from streams.records import encode, headers
from streams.records.ids import agent_of
from streams.records.steps import LlmRequest, TokenChunk

log = logging.getLogger(__name__)

MAX_STREAMS = 10_000
"""Streams with unsent pieces; beyond it pieces are dropped, since the log does not take them."""


@dataclass(slots=True, eq=False)
class _Stream:
    chunk: TokenChunk
    partition: int
    pieces: list[str] = field(default_factory=list)


class TokenFeed:
    """Gathers pieces and sends them every *flush_s* seconds."""

    def __init__(self, producer: Producer, topic: str, flush_s: float) -> None:
        self._producer = producer
        self._topic = topic
        self._flush_s = flush_s
        self._unsent: dict[_Stream, None] = {}
        self._filled = asyncio.Event()

    def open(self, request: LlmRequest, partition: int) -> OnText:
        """Begin the stream of one call."""
        stream = _Stream(TokenChunk(request.invocation, request.incarnation, request.step, 0, ""), partition)

        def on_text(text: str) -> None:
            if len(self._unsent) < MAX_STREAMS or stream in self._unsent:
                stream.pieces.append(text)
                self._unsent[stream] = None
                self._filled.set()

        return on_text

    async def run(self) -> None:
        """Send what is gathered, for ever."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(self._flush_s)
            self._filled.clear()
            streams, self._unsent = self._unsent, {}
            try:
                await self._producer.send(*map(self._message, streams))
            except StreamsError as error:
                log.warning("pieces of %d answers were not sent: %s", len(streams), error)

    def _message(self, stream: _Stream) -> Message:
        chunk = replace(stream.chunk, text="".join(stream.pieces))
        stream.chunk = replace(chunk, index=chunk.index + 1, text="")
        stream.pieces.clear()
        key = agent_of(chunk.invocation).encode()
        return Message(self._topic, key, encode(chunk), stream.partition, headers.internal("token-chunk"))
