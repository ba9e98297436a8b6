"""The processes under test: started, restarted when they end, killed, frozen and thawed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

RESTART_S = 0.3
GRACE_S = 20.0


class Kept:
    """One process that is kept running.

    Attributes:
        role: Of processes that can stand in for each other.
        environment: Of the next start, beside this process's own.
        ends: How often it ended, by exit code.
        finished: It ended with 0 although nobody asked: its work is done.
    """

    def __init__(
        self, name: str, role: str, command: Sequence[str], environment: Mapping[str, str], logs: Path
    ) -> None:
        self.name = name
        self.role = role
        self.environment = dict(environment)
        self.ends: Counter[int] = Counter()
        self.finished = asyncio.Event()
        self._command = tuple(command)
        self._log = logs / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pause_s = RESTART_S
        self._asked = False

    @property
    def pid(self) -> int | None:
        """Process ID while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it, and again whenever it ends."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    def kill(self, *, down_s: float = RESTART_S) -> bool:
        """kill -9, and start it again after *down_s*; False when it was not running."""
        if self.pid is None:
            return False
        self._pause_s = down_s
        return self._signal(signal.SIGKILL)

    def freeze(self) -> bool:
        """SIGSTOP; False when it was not running."""
        return self._signal(signal.SIGSTOP)

    def thaw(self) -> bool:
        """SIGCONT; False when it was not running."""
        return self._signal(signal.SIGCONT)

    async def roll(self, environment: Mapping[str, str]) -> float:
        """End it in good order, let it start again with *environment* too; return how long ending took."""
        self.environment.update(environment)
        while self.pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        began, before = time.monotonic(), self.ends.total()
        self._asked = True
        self._signal(signal.SIGTERM)
        while self.ends.total() == before:
            await asyncio.sleep(0.02)
            if time.monotonic() - began > GRACE_S:
                self._signal(signal.SIGKILL)
        return time.monotonic() - began

    async def stop(self) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._process is None or self.pid is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), GRACE_S)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def _signal(self, number: int) -> bool:
        if (pid := self.pid) is None:
            return False
        os.kill(pid, number)
        return True

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            code = await self._process.wait()
            self.ends[code] += 1
            if code == 0 and not self._asked:
                self.finished.set()
                return
            pause_s, self._pause_s, self._asked = self._pause_s, RESTART_S, False
            await asyncio.sleep(pause_s)
            await self._spawn()

    async def _spawn(self) -> None:
        environment = {**os.environ, "PYTHONHASHSEED": "0", **self.environment}
        with self._log.open("ab") as output:
            output.write(f"--- {self.name} starts at {time.strftime('%H:%M:%S')}\n".encode())
            output.flush()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )


class Fleet:
    """All of them; use it as an async context manager."""

    def __init__(self, processes: Sequence[Kept]) -> None:
        self.processes = tuple(processes)

    def of(self, role: str) -> list[Kept]:
        """Return the processes of a role."""
        return [process for process in self.processes if process.role == role]

    def ends(self) -> dict[str, dict[int, int]]:
        """Return how often each process ended, by exit code."""
        return {process.name: dict(process.ends) for process in self.processes if process.ends}

    async def __aenter__(self) -> Self:
        for process in self.processes:
            await process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(process.stop() for process in self.processes))
