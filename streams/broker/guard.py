"""Runs one server and ends it when the process that asked for it is gone, whatever ended that process.

The parent holds the writing end of a pipe that is this program's standard input. The kernel closes it when the parent
ends, also after `kill -9`; end of file therefore means "stop". A byte on the pipe means "stop at once", for data that
nobody needs. The parent's process ID is watched as well, because a child that the parent forked may keep the pipe open.

Run as a plain file with the standard library only: it costs 10 MB and 20 ms instead of the package's import.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command after `--` until it ends, or until the parent does; return its exit code."""
    parser = argparse.ArgumentParser(prog="guard")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--signal", default="TERM", help="asks the server to stop")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds until it is killed")
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)

    asked = False

    def ask(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)

    server = subprocess.Popen(given.command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard())
    given.pid_file.write_text(f"{server.pid}\n")
    try:
        at_once = False
        while server.poll() is None and not asked and os.getppid() == given.parent:
            readable, _, _ = select.select([0], [], [], _POLL_S)
            if readable:
                at_once = bool(os.read(0, 1))
                break
        return _stop(server, signal.SIGKILL if at_once else signal.Signals[f"SIG{given.signal}"], given.grace)
    finally:
        given.pid_file.unlink(missing_ok=True)


def _stop(server: subprocess.Popen[bytes], number: signal.Signals, grace_s: float) -> int:
    if server.poll() is None:
        server.send_signal(number)
    deadline = time.monotonic() + grace_s
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if server.poll() is None:
        server.kill()
    return server.wait()


def _die_with_guard() -> Callable[[], None] | None:
    """Where the kernel offers it, the server is killed when the guard itself is."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
