"""Server-sent events of one invocation: where it stands, what its models write, and its result, as they come.

The form is that of the WHATWG HTML standard, 9.2. A stream ends with the event `result`, or after a while; an
EventSource then connects again, and hears where the invocation stands by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson
from starlette.responses import StreamingResponse

from streams.client.handle import Handle
from streams.errors import ResultTimeout, StreamsError, UnknownInvocation
from streams.gateway.documents import result_document
from streams.gateway.problems import problem_of

log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"
FIRST_LOOK_S, LONGEST_LOOK_S = 0.2, 10.0
"""Seconds between two looks at where it stands; they grow while nothing changes."""
HEARTBEAT_S = 15.0
RETRY_MS = 1_000
MAX_WAITING = 256
"""Events that wait for a slow reader; beyond it pieces of text are left out, as the topic they come from may do."""

Status = Callable[[], Awaitable[dict[str, Any] | None]]


def stream(handle: Handle[Any], status: Status, most_s: float) -> StreamingResponse:
    """Return the response that tells of an invocation until it has ended, at most *most_s* seconds.

    Args:
        status: Returns where it stands; None while its shard has yet to read it.
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_told(handle, status, most_s), headers=headers, media_type=MEDIA_TYPE)


async def _told(handle: Handle[Any], status: Status, most_s: float) -> AsyncIterator[bytes]:
    events: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)
    yield f"retry: {RETRY_MS}\n\n".encode()
    sources = [
        asyncio.create_task(_until_result(handle, events), name=f"result of {handle.invocation_id}"),
        asyncio.create_task(_standing(status, events), name=f"status of {handle.invocation_id}"),
        asyncio.create_task(_written(handle, events), name=f"tokens of {handle.invocation_id}"),
    ]
    try:
        async with asyncio.timeout(most_s):
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), HEARTBEAT_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if event is None:
                    return
                yield event
    except TimeoutError:
        return  # the reader connects again
    finally:
        for source in sources:
            source.cancel()
        for problem in await asyncio.gather(*sources, return_exceptions=True):
            if isinstance(problem, Exception):
                log.error("a stream of events of %s had an error", handle.invocation_id, exc_info=problem)


async def _until_result(handle: Handle[Any], events: asyncio.Queue[bytes | None]) -> None:
    try:
        result = await handle.result()
        await events.put(event("result", result_document(result)))
    except StreamsError as error:
        await events.put(event("problem", problem_of(error).document()))
    await events.put(None)


async def _standing(status: Status, events: asyncio.Queue[bytes | None]) -> None:
    """Tell where it stands when that changes; times alone are no change."""
    told: object = None
    pause_s = FIRST_LOOK_S
    while True:
        try:
            found = await status()
        except (ResultTimeout, UnknownInvocation):
            found = None
        except StreamsError:
            return  # the result tells what is wrong
        if found is not None:
            if found["phase"] == "finished":
                return
            seen = (found["phase"], [(w.get("kind"), w.get("name"), w.get("step")) for w in found["waits_for"]])
            if seen != told:
                told, pause_s = seen, FIRST_LOOK_S
                await events.put(event("status", found))
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_LOOK_S)


async def _written(handle: Handle[Any], events: asyncio.Queue[bytes | None]) -> None:
    async with aclosing(handle.tokens()) as pieces:
        async for piece in pieces:
            document = {"step": piece.step, "index": piece.index, "text": piece.text}
            if not events.full():
                events.put_nowait(event("tokens", document))


def event(kind: str, document: object) -> bytes:
    """Return an event whose data is JSON, which has no line breaks."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(document))
