"""The few pieces of ASGI that the demo's servers need. No framework: the mock provider is called in benchmarks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = Iterable[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")


async def read_body(receive: Receive) -> bytes:
    """Return the whole body of a request."""
    event = await receive()
    body: bytes = event.get("body", b"")
    while event.get("more_body"):
        event = await receive()
        body += event.get("body", b"")
    return body


async def send_json(send: Send, status: int, value: object, headers: RawHeaders = ()) -> None:
    """Answer with *value* as JSON."""
    await send_bytes(send, status, orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), headers)


async def send_bytes(send: Send, status: int, body: bytes, headers: RawHeaders = ()) -> None:
    """Answer with a JSON document that is encoded already."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})
