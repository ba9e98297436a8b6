"""`/metrics`, `/livez` and `/readyz` of a process, on the event loop of its roles.

On that loop on purpose: `/livez` answers exactly when the process still does its work, and a scrape reads counters that
nobody writes meanwhile. Only as much HTTP as probes and scrapers need: GET and HEAD, one request a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from streams.observe.collect import RoleCollector
from streams.observe.listen import address_of, listen
from streams.observe.log_check import LogCheck
from streams.observe.readiness import missing
from streams.observe.settings import ObserveSettings

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 8_192
TEXT = "text/plain; charset=utf-8"
SETTING = "STREAMS_OBSERVE"


class Reply(NamedTuple):
    """A response."""

    status: str
    body: str
    content_type: str = TEXT


class Probes:
    """Answers for a process.

    Args:
        roles: Its role objects, by name.
        log_check: Whether the log answers; None for processes without one.
    """

    def __init__(self, roles: Mapping[str, Any], settings: ObserveSettings, log_check: LogCheck | None = None) -> None:
        self._roles = roles
        self._settings = settings
        self._log_check = log_check
        self._open = 0
        self._collector = RoleCollector(roles, settings.max_series)
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    async def answer(self, path: str, accept: str = "") -> Reply:
        """Return the response to GET *path*."""
        match path.partition("?")[0]:
            case "/metrics":
                self._collector.log_problem = await self._log_problem()
                encode, content_type = choose_encoder(accept)
                return Reply("200 OK", encode(self._registry).decode(), content_type)
            case "/livez":
                return Reply("200 OK", "ok\n")
            case "/readyz":
                waiting = missing(self._roles)
                if problem := await self._log_problem():
                    waiting = {"log": problem, **waiting}
                lines = [f"{what}: {reason}\n" for what, reason in waiting.items()]
                return Reply("503 Service Unavailable", "".join(lines)) if lines else Reply("200 OK", "ok\n")
            case other:
                return Reply("404 Not Found", f"{other} is not here; there are /metrics, /livez and /readyz\n")

    async def _log_problem(self) -> str:
        return await self._log_check.problem() if self._log_check is not None else ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        self._open += 1
        try:
            if self._open <= self._settings.max_connections:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    writer.write(await self._respond(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # whoever asks like that gets no answer
        finally:
            self._open -= 1
            writer.close()

    async def _respond(self, head: bytes) -> bytes:
        first, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        if method not in ("GET", "HEAD"):
            return _encode(Reply("405 Method Not Allowed", "only GET and HEAD\n"), body=True)
        named = (field.partition(":") for field in fields)
        accept = next((value.strip() for name, _, value in named if name.lower() == "accept"), "")
        try:
            reply = await self.answer(rest.partition(" ")[0], accept)
        except Exception:
            log.exception("a scrape failed")
            reply = Reply("500 Internal Server Error", "the log of the process says why\n")
        return _encode(reply, body=method == "GET")


@asynccontextmanager
async def serve_probes(
    settings: ObserveSettings, roles: Mapping[str, Any], log_check: LogCheck | None = None
) -> AsyncIterator[str]:
    """Serve metrics and probes while inside; gives the address, empty where the settings ask for none.

    Raises:
        SettingsError: The port is in use, or the host is not an address of this machine.
    """
    if settings.port is None:
        yield ""
        return
    listener = listen(settings.host, settings.port, SETTING)
    server = await asyncio.start_server(Probes(roles, settings, log_check).serve, sock=listener, limit=MAX_HEAD_BYTES)
    address = address_of(listener)
    log.info("metrics and probes at http://%s/metrics, /livez and /readyz", address)
    try:
        yield address
    finally:
        server.close()


def _encode(reply: Reply, *, body: bool) -> bytes:
    data = reply.body.encode()
    head = (
        f"HTTP/1.1 {reply.status}\r\nContent-Type: {reply.content_type}\r\nContent-Length: {len(data)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (data if body else b"")
