"""Runs the mock provider inside this process: on the running event loop, or on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

import uvicorn

from streams.demo.asgi import ASGIApp
from streams.demo.provider.answers import Responder
from streams.demo.provider.app import MockApp, answer
from streams.demo.provider.config import MockConfig
from streams.demo.provider.stats import Stats

START_S = 10.0


class MockProvider:
    """A mock provider on a free port of this machine.

    `async with` runs it on the current event loop, `with` on a thread, so that blocking tests can call it.

    Args:
        config: What it does; see `MockConfig`.
        responder: What it says.
        mounts: Apps served beside it, by the first part of their path.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        config: MockConfig | None = None,
        responder: Responder = answer,
        mounts: Mapping[str, ASGIApp] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.app = MockApp(config, responder, mounts)
        self._host, self._port = host, port
        self._server: _Server | None = None
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """What a client of the protocol is given: `http://host:port/v1`."""
        return f"{self.url}/v1"

    @property
    def url(self) -> str:
        """Root of the server, where `/stats`, `/control` and the mounts are.

        Raises:
            RuntimeError: it has not started.
        """
        if self._socket is None:
            raise RuntimeError("the mock provider has no address before it starts; use it as a context manager")
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    @property
    def stats(self) -> Stats:
        """What it saw."""
        return self.app.stats

    def configure(self, **changes: object) -> None:
        """Change fields of its `MockConfig`, as `POST /control` does.

        Raises:
            pydantic.ValidationError: a field is unknown or does not validate.
        """
        self.app.configure(MockConfig.model_validate({**self.app.config.model_dump(), **changes}))

    async def __aenter__(self) -> Self:
        server, listening = self._listen()
        self._task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the mock provider ended while it started")
            await asyncio.sleep(0.001)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._task is not None:
            await self._task
        self._closed()

    def __enter__(self) -> Self:
        server, listening = self._listen()
        self._thread = threading.Thread(target=server.run, args=([listening],), name="mock-provider", daemon=True)
        self._thread.start()
        give_up = time.monotonic() + START_S
        while not server.started:
            if time.monotonic() > give_up or not self._thread.is_alive():
                raise RuntimeError(f"the mock provider did not start within {START_S} s")
            time.sleep(0.001)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._thread is not None:
            self._thread.join(START_S)
        self._closed()

    def _listen(self) -> tuple[_Server, socket.socket]:
        if self._socket is not None:
            raise RuntimeError("the mock provider is running already")
        # asyncio turns Nagle's algorithm off only where the protocol says TCP; with it, answers take 40 ms more.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((self._host, self._port))
        self._socket = listening
        self._server = _Server(settings(self.app))
        return self._server, listening

    def _stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            self._server.force_exit = True  # a request that hangs on purpose must not hold up the end

    def _closed(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self._server = self._task = self._thread = None


class _Server(uvicorn.Server):
    """Leaves signals to the process that it is a guest in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def settings(app: ASGIApp) -> uvicorn.Config:
    """Return how uvicorn runs the app: silent, without a lifespan, ready for thousands of connections."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
        backlog=4096,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=1,
    )
