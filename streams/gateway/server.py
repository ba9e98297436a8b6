"""Uvicorn as a guest of a process that has other work: it takes no signals, logs nothing of its own, and ends in good
order when its task is cancelled.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from streams.gateway.door import Door, guarded
from streams.gateway.settings import GatewaySettings

KEEP_ALIVE_S = 5
MAX_HEAD_BYTES = 65_536
END_S = 2.0
"""What the server itself needs to end, beside the grace for requests under way."""


class GuestServer(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(asgi: ASGIApp, listener: socket.socket, settings: GatewaySettings, door: Door) -> None:
    """Serve until cancelled; then take nothing new, and give requests under way `grace_s` to end."""
    server = GuestServer(
        uvicorn.Config(
            asgi,
            lifespan="off",
            ws="none",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=guarded(door),
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.grace_s,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
    )
    serving = asyncio.create_task(server.serve([listener]), name="gateway")
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait((serving,), timeout=settings.grace_s + END_S)
        serving.cancel()
