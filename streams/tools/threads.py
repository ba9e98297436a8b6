"""Threads for tools that are plain functions, and what becomes of those that never come back.

A thread cannot be ended from outside. When nobody waits for its call any more it is abandoned: counted until it returns
after all, and in nobody's way. Past a bound the process says so and ends, so that a supervisor starts a new one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from streams.errors import ToolsStuck

MOST_IDLE = 32


class Threads:
    """Threads that run one call each; as many as there are calls, reused.

    Not an executor of the standard library: the interpreter waits for the threads of those before it ends, for ever if
    one of them never returns.

    Args:
        most_abandoned: Abandoned threads at a time, beyond which `overrun` raises.

    Attributes:
        abandoned: Threads whose call nobody waits for and that have not returned, by tool.
    """

    def __init__(self, most_abandoned: int) -> None:
        self.abandoned: Counter[str] = Counter()
        self._most = most_abandoned
        self._idle: list[_Thread] = []
        self._over = asyncio.Event()

    async def run(self, tool: str, function: Callable[[], Any]) -> Any:
        """Return what *function* returns in a thread. Cancelled, it abandons the thread.

        Args:
            tool: Under whose name the thread is counted if it is abandoned.
        """
        job = _Job(tool, function, asyncio.get_running_loop(), self._returned)
        (self._idle.pop() if self._idle else _Thread()).take(job)
        try:
            return await job.future
        finally:
            if not job.over:
                job.abandoned = True
                self.abandoned[tool] += 1
                if self.abandoned.total() > self._most:
                    self._over.set()

    async def overrun(self) -> None:
        """Wait until too many threads are abandoned.

        Raises:
            ToolsStuck: They are; names the tools.
        """
        await self._over.wait()
        counts = ", ".join(f"{tool} {count}" for tool, count in self.abandoned.most_common() if count)
        raise ToolsStuck(
            f"{self.abandoned.total()} threads of tools have not returned after their timeout ({counts}), more than "
            f"{self._most} (tools.max_abandoned_threads); this worker ends to get rid of them. Give these tools "
            "timeouts of their own, shorter than the declared ones, or make them async"
        )

    def close(self) -> None:
        """Let idle threads end; abandoned ones end with the process."""
        while self._idle:
            self._idle.pop().take(None)

    def _returned(self, job: _Job, thread: _Thread, value: Any, error: BaseException | None) -> None:
        job.over = True
        if job.abandoned:
            self.abandoned[job.tool] -= 1
        elif not job.future.done():
            if error is None:
                job.future.set_result(value)
            else:
                job.future.set_exception(error)
        if len(self._idle) < MOST_IDLE:
            self._idle.append(thread)
        else:
            thread.take(None)


class _Job:
    __slots__ = ("abandoned", "function", "future", "loop", "over", "returned", "tool")

    def __init__(
        self,
        tool: str,
        function: Callable[[], Any],
        loop: asyncio.AbstractEventLoop,
        returned: Callable[[_Job, _Thread, Any, BaseException | None], None],
    ) -> None:
        self.tool = tool
        self.function = function
        self.loop = loop
        self.returned = returned
        self.future: asyncio.Future[Any] = loop.create_future()
        self.over = False
        self.abandoned = False


class _Thread:
    """A daemon thread that takes one job after the other; None ends it."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._work, name="tool", daemon=True).start()

    def take(self, job: _Job | None) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            value: Any = None
            error: BaseException | None = None
            try:
                value = job.function()
            except StopIteration as stop:  # a future cannot carry it
                error = RuntimeError(f"StopIteration: {stop}")
            except BaseException as raised:
                error = raised
            try:
                job.loop.call_soon_threadsafe(job.returned, job, self, value, error)
            except RuntimeError:
                return  # the loop is closed: the worker has ended
            del job, value, error
