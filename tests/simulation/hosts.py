"""Simulated machines: each runs one role in a process, and starts it again when that has died or ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any

from streams.broker.port import Message
from streams.broker.ring import OrderedRing
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.simulated.broker import SimulatedTransactions
from streams.broker.simulated.link import Link
from streams.errors import StreamsError

Start = Callable[[Process], Coroutine[Any, Any, None]]


class Host:
    """A machine.

    Args:
        start: Makes the coroutine that a process runs; called for each process anew.
        problems: Where unexpected ends are noted.

    Attributes:
        closing: No process is started any more.
    """

    def __init__(self, name: str, start: Start, random: Random, problems: list[str]) -> None:
        self.name = name
        self.process = Process(f"{name}.0")
        self.starts = 0
        self.closing = False
        self._start = start
        self._random = random
        self._problems = problems
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Keep a process running; in the world's own name."""
        while not self.closing:
            self.starts += 1
            self.process = process = Process(f"{self.name}.{self.starts}")
            over = asyncio.Event()
            process.watch(partial(_set_when_killed, over))
            self._task = task = process.spawn(self._start(process), name=process.name)
            task.add_done_callback(partial(_set, over))
            await over.wait()
            if not process.dead:
                self._judge(task)
                process.kill()
            await asyncio.sleep(self._random.random() * self._random.choice((0.05, 0.5, 2.0)))

    def stop(self) -> None:
        """Ask the process to end, as SIGTERM does."""
        if self._task is not None and self.process.running:
            self._task.cancel()

    def _judge(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        leaves: list[BaseException] = [error]
        while leaves:
            one = leaves.pop()
            if isinstance(one, BaseExceptionGroup):
                leaves += one.exceptions
            elif not isinstance(one, StreamsError | asyncio.CancelledError):
                self._problems.append(f"{self.name} ended with {one!r}")


class TrappedBroker(SimulatedBroker):
    """A connection whose process dies in the midst of a transaction, if its host has a trap for it.

    Args:
        traps: Process to how many more requests of transactions it survives.
    """

    def __init__(self, log: SimulatedLog, process: Process, traps: dict[Process, int]) -> None:
        super().__init__(log, process)
        self._traps = traps

    def ring(self, transactional_id: str, *, size: int = 2, timeout_ms: int = 10_000) -> OrderedRing:
        """Return a ring whose producers step into the trap."""
        names = [f"{transactional_id}-{number}" for number in range(size)]
        return OrderedRing(
            transactional_id,
            [_Trapped(self._link(), name, timeout_ms / 1000, self.process, self._traps) for name in names],
        )


class _Trapped(SimulatedTransactions):
    def __init__(
        self, link: Link, transactional_id: str, timeout_s: float, process: Process, traps: dict[Process, int]
    ) -> None:
        super().__init__(link, transactional_id, timeout_s)
        self._process = process
        self._traps = traps

    async def write(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Write, or die while it is under way."""
        self._step()
        return await super().write(messages)

    async def commit(self) -> None:
        """Commit, or die while it is under way."""
        self._step()
        await super().commit()

    def _step(self) -> None:
        left = self._traps.get(self._process)
        if left is not None:
            self._traps[self._process] = left - 1
            if left == 0:
                self._process.kill_after(1)


def _set(event: asyncio.Event, _: object) -> None:
    event.set()


def _set_when_killed(event: asyncio.Event, change: str) -> None:
    if change == "killed":
        event.set()
