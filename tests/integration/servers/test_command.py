"""`streams servers up|status|logs|down` as a person uses it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from streams.broker.embedded import broker_answers
from streams.cli.embedded import ServerOptions, servers
from streams.cli.server_state import ServerAddresses, keeper, keeping
from streams.errors import SettingsError


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "streams", "servers", *arguments, "--dir", str(folder)]
    return subprocess.run(call, capture_output=True, text=True, timeout=110)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "servers"
    command(tmp_path / "servers", "down")


def test_servers_stay_up_until_they_are_taken_down(folder: Path) -> None:
    up = command(folder, "up")
    assert up.returncode == 0, up.stderr
    assert "a power cut can cost" in up.stderr
    assert "Warning" not in up.stderr
    settings = dict(line.removeprefix("export ").split("=", 1) for line in up.stdout.splitlines())
    host, port = settings["STREAMS_KAFKA__BOOTSTRAP_SERVERS"].split(":")
    assert broker_answers(host, int(port))
    with psycopg.connect(settings["STREAMS_MEMORY__DSN"]) as connection:
        connection.execute("CREATE TABLE kept (number int)")

    assert "export STREAMS_MEMORY__DSN=" in command(folder, "status").stdout
    assert "kept by process" in command(folder, "up").stdout.lower()
    assert "Kafka Server started" in command(folder, "logs").stdout

    assert command(folder, "down").stdout == "Stopped.\n"
    assert command(folder, "status").returncode == 1
    assert not broker_answers(host, int(port))

    with servers(ServerOptions(folder), bootstrap_servers="elsewhere:9092") as again:
        assert again.addresses == ServerAddresses("elsewhere:9092", settings["STREAMS_MEMORY__DSN"])
        with psycopg.connect(again.addresses.dsn) as connection:
            connection.execute("SELECT number FROM kept")


def test_a_start_that_fails_says_why(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = command(folder, "up", "--postgres-port", str(port))
    assert up.returncode == 1
    assert f"port {port} (--postgres-port) is in use" in up.stderr
    assert "Traceback" not in up.stderr
    assert keeper(folder) is None


def test_down_without_servers_is_no_error(folder: Path) -> None:
    assert command(folder, "down").returncode == 0


def test_a_keeper_that_was_killed_is_not_believed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from streams.cli.server_state import *\n"
        "folder = Path(sys.argv[1])\n"
        "with keeping(folder): publish(folder, ServerAddresses('a:1', 'b')); print(flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        kept = keeper(tmp_path)
        assert kept is not None
        assert (kept.pid, kept.addresses) == (process.pid, ServerAddresses("a:1", "b"))
        with pytest.raises(SettingsError, match=f"kept by process {process.pid}"), keeping(tmp_path):
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert json.loads((tmp_path / "servers.json").read_text())["pid"] == process.pid
    assert keeper(tmp_path) is None
    with keeping(tmp_path):
        assert keeper(tmp_path) is not None
    assert keeper(tmp_path) is None


def test_given_addresses_start_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with servers(ServerOptions(tmp_path / "none"), bootstrap_servers="a:1", dsn="b") as running:
        assert running.addresses.environment() == {
            "STREAMS_KAFKA__BOOTSTRAP_SERVERS": "a:1",
            "STREAMS_MEMORY__DSN": "b",
        }
    assert time.monotonic() - began < 1
    assert not (tmp_path / "none").exists()
