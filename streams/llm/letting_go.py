"""Lets go of requests whose partition goes to another process: what waits leaves, what is being answered may end.

Without it a process that is told to stop would go on sending what it will not be able to answer in time, and the next
owner would send, and pay for, the same again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LettingGo:
    """The requests of one partition that wait, as tasks."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[Any]] = set()
        self._begun = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the current task as waiting meanwhile.

        Raises:
            CancelledError: The partition is being let go of, before or while the task waited.
        """
        if self._begun:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)

    def begin(self) -> None:
        """Cancel what waits, and what wants to wait from now on. Idempotent."""
        self._begun = True
        for task in tuple(self._waiting):
            task.cancel()
