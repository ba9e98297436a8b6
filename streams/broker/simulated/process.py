"""A process that is only simulated: it can be killed, or frozen and thawed, at any await.

A virtual-time loop (`streams.testing.virtual_time`) reads from a handle's context which process it belongs to, drops
the handles of dead processes and holds those of frozen ones. On an ordinary loop only calls to the simulated log are
held.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Change = Literal["killed", "frozen", "thawed"]

current_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("current_process", default=None)
"""The simulated process that runs; None for the test around them and for the simulated log itself."""


class Process:
    """One simulated process.

    Attributes:
        name: For messages and traces.
        running: Neither dead nor frozen.
        handles: Callbacks that are ready; belongs to the virtual-time loop.
        fuse: Handles that the process may still run before it is killed; negative for no limit.
        tasks: Those that were started in it and have not ended, and some that have. Held, because asyncio does not: a
            task that only a garbage collection ends would make histories differ.
        corpses: Tasks that were alive when the process was killed.
    """

    __slots__ = (
        "_prune_at",
        "_resumed",
        "_watchers",
        "corpses",
        "dead",
        "frozen",
        "fuse",
        "handles",
        "name",
        "running",
        "tasks",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.running = True
        self.fuse = -1
        self.handles: deque[asyncio.Handle] = deque()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.corpses: list[asyncio.Task[Any]] = []
        self._prune_at = 64
        self._watchers: list[Callable[[Change], None]] = []
        self._resumed: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        state = "dead" if self.dead else "frozen" if self.frozen else "running"
        return f"<Process {self.name} {state}>"

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Hold *task* until it has ended."""
        tasks = self.tasks
        tasks.add(task)
        if len(tasks) > self._prune_at:
            tasks.difference_update([task for task in tasks if task.done()])
            self._prune_at = 2 * len(tasks) + 64

    def kill(self) -> None:
        """End the process where it stands: nothing of it runs any more, what it sent may still arrive. Idempotent."""
        if not self.dead:
            self.dead = True
            self.running = False
            self.handles.clear()
            # Kept, because collecting a suspended coroutine would run its finally blocks.
            self.corpses = [task for task in self.tasks if not task.done()]
            self.tasks.clear()
            self._tell("killed")

    def kill_after(self, handles: int) -> None:
        """Kill the process once it has run that many more callbacks (task steps): a crash at any await."""
        if handles < 1:
            raise ValueError(f"number of callbacks before the kill must be positive, got {handles}")
        self.fuse = handles

    def freeze(self) -> None:
        """Stop the process until `thaw`, as SIGSTOP does: what wakes up later is a zombie. Idempotent."""
        if self.running:
            self.frozen = True
            self.running = False
            self._tell("frozen")

    def thaw(self) -> None:
        """Undo `freeze`. Idempotent."""
        if self.frozen and not self.dead:
            self.frozen = False
            self.running = True
            for waiter in self._resumed:
                if not waiter.done():
                    waiter.set_result(None)
            self._resumed.clear()
            self._tell("thawed")

    def watch(self, watcher: Callable[[Change], None]) -> None:
        """Call *watcher* on every change from now on."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[Change], None]) -> None:
        """Undo `watch`."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def context(self) -> contextvars.Context:
        """Return a copy of the current context that belongs to this process."""
        context = contextvars.copy_context()
        context.run(current_process.set, self)
        return context

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run *coroutine* in this process; everything that it starts belongs to the process too."""
        return asyncio.get_running_loop().create_task(
            coroutine, name=name or f"task of {self.name}", context=self.context()
        )

    async def resumed(self) -> None:
        """Return when the process runs: at once, after `thaw`, or never."""
        while not self.running:
            waiter = asyncio.get_running_loop().create_future()
            self._resumed.append(waiter)
            await waiter

    def _tell(self, change: Change) -> None:
        for watcher in tuple(self._watchers):
            watcher(change)
