"""Who may hold a connection: a bound on how many, and on how long one may take to say what it wants.

Uvicorn waits for the head of a first request for ever, so that a few thousand silent connections would use up every
file descriptor. Here a connection whose request has not arrived in full is idle: it is closed after a while, at once
when the house is full and somebody else knocks. Only when all are at work is a new one turned away.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from streams.gateway.problems import MEDIA_TYPE, Problem


class Door:
    """Counts connections of one server.

    Args:
        most: Connections at a time.
        patience_s: Seconds for the head of a request to arrive.

    Attributes:
        turned_away: New connections that were answered 503 at once.
        closed_idle: Idle ones that were closed: too slow, or in another one's way.
    """

    def __init__(self, most: int, patience_s: float) -> None:
        self.turned_away = 0
        self.closed_idle = 0
        self._most = most
        self._patience_s = patience_s
        self._idle: dict[H11Protocol, asyncio.TimerHandle] = {}

    def came(self, connection: H11Protocol) -> bool:
        """Take note of a new connection, which is counted already; False when there is no room for it."""
        if len(connection.connections) > self._most and not self._make_room():
            self.turned_away += 1
            return False
        self.waits(connection)
        return True

    def waits(self, connection: H11Protocol) -> None:
        """Its request is not there in full; the time counts from the first moment of that."""
        if connection not in self._idle:
            loop = asyncio.get_running_loop()
            self._idle[connection] = loop.call_later(self._patience_s, self._close, connection)

    def works(self, connection: H11Protocol) -> None:
        """It is served, or has gone."""
        timer = self._idle.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _make_room(self) -> bool:
        oldest = next(iter(self._idle), None)
        if oldest is not None:
            self._close(oldest)
        return oldest is not None

    def _close(self, connection: H11Protocol) -> None:
        self.works(connection)
        self.closed_idle += 1
        connection.connections.discard(connection)
        connection.transport.close()


def guarded(door: Door) -> type[H11Protocol]:
    """Return the protocol class of a server behind *door*."""

    class Guarded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if not door.came(self):
                transport.write(FULL)
                transport.close()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                door.waits(self)
            else:
                door.works(self)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self in self.connections and (self.cycle is None or self.cycle.response_complete):
                door.waits(self)

        def connection_lost(self, exc: Exception | None) -> None:
            door.works(self)
            super().connection_lost(exc)

    return Guarded


def _full() -> bytes:
    problem = Problem(503, "Full", "the gateway has all the connections that it may have (max_connections); come back")
    body: Any = orjson.dumps(problem.document())
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        "retry-after: 1",
        "connection: close",
        "",
        "",
    )
    return "\r\n".join(head).encode() + bytes(body)


FULL = _full()
"""What somebody gets for whom there is no room; written without a request having been read."""
