"""What `streams servers` remembers in `.streams/`: who keeps the servers running, and where they answer.

A lock file tells whether the keeper is alive: the kernel lets go of the lock when it ends, also after `kill -9`. The
process ID in the state file is believed only while the lock is held.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from streams.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ServerAddresses:
    """Where the servers answer.

    Attributes:
        bootstrap_servers: Of Kafka.
        dsn: Of Postgres.
    """

    bootstrap_servers: str
    dsn: str

    def environment(self) -> dict[str, str]:
        """Return the settings that point a process to them."""
        return {"STREAMS_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers, "STREAMS_MEMORY__DSN": self.dsn}


@dataclass(frozen=True, slots=True)
class Keeper:
    """The process that keeps the servers of a folder running.

    Attributes:
        pid: Its process ID.
        addresses: None while they are being started.
    """

    pid: int
    addresses: ServerAddresses | None


def keeper(folder: Path) -> Keeper | None:
    """Return who keeps the servers of *folder* running; None when nobody does."""
    lock = folder / "servers.lock"
    if not lock.exists():
        return None
    with lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(folder)
    return None


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Hold the folder as this process's own.

    Raises:
        SettingsError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "servers.lock").open("a") as file:
        if not _lock(file):
            raise SettingsError(
                f"servers of {folder} are kept by process {_read(folder).pid}; use them, stop them with "
                "`streams servers down`, or choose another folder with --dir"
            )
        publish(folder, None)
        try:
            yield
        finally:
            _state_file(folder).unlink(missing_ok=True)


def publish(folder: Path, addresses: ServerAddresses | None) -> None:
    """Write down that this process keeps the servers, and where they answer once they do."""
    state = {"pid": os.getpid(), "addresses": asdict(addresses) if addresses else None}
    partial = folder / "servers.json.partial"
    partial.write_text(json.dumps(state, indent=2) + "\n")
    partial.rename(_state_file(folder))


def _lock(file: TextIO) -> bool:
    """Whoever asks `keeper` holds a shared lock for an instant, so one refusal says nothing yet."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.03)
        else:
            return True
    return False


def _state_file(folder: Path) -> Path:
    return folder / "servers.json"


def _read(folder: Path) -> Keeper:
    try:
        state = json.loads(_state_file(folder).read_text())
    except FileNotFoundError:
        return Keeper(0, None)  # the keeper has the lock and has not written yet, or has just removed the file
    addresses = state["addresses"]
    return Keeper(state["pid"], ServerAddresses(**addresses) if addresses else None)
