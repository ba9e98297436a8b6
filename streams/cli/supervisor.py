"""Child processes that run roles: started, watched, restarted with back-off, ended together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from streams.errors import StreamsError

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STEADY_S = 30.0
GRACE_S = 12.0


@dataclass(slots=True)
class Child:
    """A supervised process.

    Attributes:
        name: For messages, and the name of its log file.
        arguments: Of the `streams` command.
        restarts: Times that it ended without being asked to.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0

    @property
    def pid(self) -> int | None:
        """Process ID while it runs."""
        process = self.process
        return process.pid if process is not None and process.returncode is None else None


class Supervisor:
    """Keeps children running until it is left; use it as an async context manager.

    Args:
        logs: Folder for what the children print; None lets them print here.
        give_up_after: Ends of one child within its first seconds, one after the other, after which `check` raises.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        logs: Path | None = None,
        report: Callable[[str], None] = print,
        give_up_after: int = 8,
    ) -> None:
        self.children = tuple(children)
        self._logs = logs
        self._report = report
        self._give_up_after = give_up_after
        self._keepers: list[asyncio.Task[None]] = []
        self._failed: str = ""

    async def __aenter__(self) -> Self:
        if self._logs is not None:
            self._logs.mkdir(parents=True, exist_ok=True)
        self._keepers = [
            asyncio.create_task(self._keep(child), name=f"keeper of {child.name}") for child in self.children
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(self._end(child) for child in self.children))

    def check(self) -> None:
        """Raise when a child does not stay up.

        Raises:
            StreamsError: With the child's name and its last lines.
        """
        if self._failed:
            raise StreamsError(self._failed)

    async def wait(self) -> None:
        """Wait until a child does not stay up; see `check`."""
        while not self._failed:  # noqa: ASYNC110 - a child may fail at any time
            await asyncio.sleep(0.2)
        self.check()

    async def _keep(self, child: Child) -> None:
        pause, quick = FIRST_PAUSE_S, 0
        while True:
            started = time.monotonic()
            child.process = await self._start(child)
            code = await child.process.wait()
            lived_s = time.monotonic() - started
            quick = 0 if lived_s >= STEADY_S else quick + 1
            pause = FIRST_PAUSE_S if lived_s >= STEADY_S else min(LONGEST_PAUSE_S, pause * 2)
            child.restarts += 1
            if quick >= self._give_up_after:
                self._failed = f"{child.name} ended {quick} times with code {code}{self._last_lines(child)}"
                return
            self._report(f"{child.name} ended with code {code}; starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)

    async def _start(self, child: Child) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "streams", *child.arguments, "--parent", str(os.getpid())]
        environment = {**os.environ, "PYTHONHASHSEED": "0", **child.environment}
        if self._logs is None:
            return await asyncio.create_subprocess_exec(*command, env=environment)
        with (self._logs / f"{child.name}.log").open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )

    async def _end(self, child: Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), GRACE_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _last_lines(self, child: Child) -> str:
        if self._logs is None:
            return ""
        text = (self._logs / f"{child.name}.log").read_text(encoding="utf-8", errors="replace")
        return "; its last lines:\n" + "\n".join(text.splitlines()[-15:])
