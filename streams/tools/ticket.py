"""One call while it is open in a worker: whether somebody waits for it, and whether it may still be stopped."""

from __future__ import annotations

import asyncio


class Ticket:
    """A call's.

    Attributes:
        wanted: Somebody waits for the answer.
        waiting: It has not begun.
    """

    __slots__ = ("_stoppable", "_task", "kept_back", "waiting", "wanted")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.wanted = True
        self.waiting = True
        self.kept_back = False
        self._stoppable = True
        self._task = task

    def begin(self, effect: str) -> None:
        """Note that the call is about to be made. From now on only one that just reads may be stopped.

        Raises:
            CancelledError: It may not begin here: the partition is being let go of.
        """
        if self.kept_back:
            raise asyncio.CancelledError
        self.waiting = False
        self._stoppable = effect == "read"

    def cancel(self) -> None:
        """Nobody waits any more: stop it where that does no harm."""
        if self.wanted:
            self.wanted = False
            if self._stoppable:
                self._task.cancel()

    def keep_back(self) -> None:
        """Do not begin, so that the next owner of the partition does; what has begun goes on."""
        self.kept_back = True
        if self.waiting:
            self._task.cancel()
