"""Finds handlers that block: a thread that looks at what the shards' thread is doing."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger(__name__)


class Watchdog:
    """Logs the stack of a step that takes too long, and past a bound ends the process.

    Between `start` and `stop`; outside of that it watches nothing.

    Args:
        warn_s: Seconds in one step after which the stack is logged, once a step.
        exit_s: Seconds in one step after which the process ends; the next owner counts the attempt.
        leave: Ends the process.
    """

    def __init__(self, warn_s: float, exit_s: float, leave: Callable[[int], object] = os._exit) -> None:
        self._warn_s = warn_s
        self._exit_s = exit_s
        self._leave = leave
        self._started_at: float | None = None
        self._partition = -1
        self._warned = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = 0
        self.blocked = 0

    def start(self) -> None:
        """Watch the calling thread."""
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="handler watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. Idempotent."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    @contextmanager
    def watching(self, partition: int) -> Iterator[None]:
        """Watch what runs inside."""
        self._partition, self._warned, self._started_at = partition, False, time.monotonic()
        try:
            yield
        finally:
            self._started_at = None

    def _watch(self) -> None:
        while not self._over.wait(self._warn_s / 4):
            started = self._started_at
            if started is None:
                continue
            blocked_s = time.monotonic() - started
            if blocked_s >= self._warn_s and not self._warned:
                self._warned = True
                self.blocked += 1
                log.error("a handler blocks its shard", seconds=round(blocked_s, 1), stack=self._stack(), **self._who())
            if blocked_s >= self._exit_s:
                log.critical("a handler has blocked its shard for too long; ending the process", **self._who())
                self._leave(70)

    def _who(self) -> dict[str, int]:
        return {"partition": self._partition}

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._watched)
        return "".join(traceback.format_stack(frame)[-12:]) if frame else "unknown"
