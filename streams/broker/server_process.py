"""A server as a child process: started under a guard, watched until it is ready, stopped, and quoted when it fails.

Used for the embedded Kafka and the embedded Postgres. What the servers are told is theirs to decide; that they end with
the process that started them is `streams.broker.guard`'s work.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from streams.broker import guard
from streams.errors import SettingsError, StreamsError

LOOPBACK = "127.0.0.1"
# Below the range that the kernel hands out for outgoing connections, which could take a port between choice and use.
_PORTS = range(20_000, 32_000)


class ServerProcess:
    """One server under a guard.

    Attributes:
        name: As a person calls it ("embedded Kafka"), for messages.
        log_file: Standard output and error of the server, written anew at each start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_file: Path,
        error: type[StreamsError],
        stop_signal: str = "TERM",
        grace_s: float = 10.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._command = tuple(command)
        self._error = error
        self._stop_signal = stop_signal
        self._grace_s = grace_s
        self._environment = dict(environment or {})
        self._pid_file = log_file.with_suffix(".pid")
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server. It may not be ready yet: `wait_until` follows."""
        self._pid_file.unlink(missing_ok=True)
        command = [sys.executable, "-I", "-S", guard.__file__]
        command += ["--parent", str(os.getpid()), "--signal", self._stop_signal, "--grace", str(self._grace_s)]
        command += ["--pid-file", str(self._pid_file), "--", *self._command]
        with self.log_file.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal is for the parent, which stops its servers in order.
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self._environment},
            )

    @property
    def alive(self) -> bool:
        """Whether the guard, and so the server, still runs."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def pid(self) -> int | None:
        """Process ID of the server itself; None before it started and after it ended."""
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return once *ready* says so.

        Raises:
            StreamsError: The class given at construction, with the server's last lines, when the server ended or was
                not ready within *timeout_s*. The server is stopped then.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.alive:
                code = self._guard.returncode if self._guard else None
                raise self._error(
                    f"{self.name} ended with code {code} before it was ready; {last_lines(self.log_file)}"
                )
            if time.monotonic() > deadline:
                self.stop(at_once=True)
                raise self._error(f"{self.name} was not ready within {timeout_s:.0f} s; {last_lines(self.log_file)}")
            time.sleep(0.03)

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the server and wait for its end; with *at_once* it is killed. Idempotent."""
        process, self._guard = self._guard, None
        if process is None:
            return
        assert process.stdin is not None
        try:
            if at_once:
                process.stdin.write(b"k")
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended by itself
        try:
            process.wait(self._grace_s + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class EmbeddedServer(ABC):
    """A server that lives with whoever started it: by `start` and `stop`, or by a `with` block.

    Attributes:
        data_dir: Data, port and log. Made when missing.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._process: ServerProcess | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it and return once it can be used. Idempotent while it runs."""

    def stop(self, *, at_once: bool = False) -> None:
        """Stop it; with *at_once* it is killed, for data that nobody needs. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(at_once=at_once)

    @property
    def log_file(self) -> Path:
        """What it printed since its last start."""
        return self.data_dir / "server.log"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Process ID of the server itself."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def last_lines(log_file: Path, count: int = 25) -> str:
    """Return the end of a server's log, with its path in front, for a message."""
    try:
        lines = log_file.read_text(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    quoted = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
    return f"last lines of {log_file}:\n{quoted}"


def free_port(wanted: int | None = None, *, setting: str = "port") -> int:
    """Return *wanted* if nobody has it, or some port that is free when None.

    Raises:
        SettingsError: *wanted* is in use, or no port of the range is free.
    """
    if wanted is not None:
        if not port_is_free(wanted):
            raise SettingsError(
                f"port {wanted} ({setting}) is in use by another process; stop that process, choose another port, "
                "or leave the setting out for a free one"
            )
        return wanted
    for candidate in random.sample(_PORTS, 200):
        if port_is_free(candidate):
            return candidate
    raise SettingsError(f"no free port found between {_PORTS.start} and {_PORTS.stop}; name one with {setting}")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on *port* of the loopback interface now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As servers do: connections of an earlier server that still linger do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
