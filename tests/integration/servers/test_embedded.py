"""The embedded servers: starting, ending with their parent, failing with words, keeping data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from streams.broker.embedded import EmbeddedKafka, broker_answers
from streams.broker.server_process import LOOPBACK, ServerProcess
from streams.errors import BrokerUnavailable, SettingsError, StoreUnavailable
from streams.memory.embedded import EmbeddedPostgres

# Started by a process of its own, which is then killed: it starts both servers and says their process IDs and ports.
_PARENT = """
import sys, time
from pathlib import Path
from streams.broker.embedded import EmbeddedKafka
from streams.memory.embedded import EmbeddedPostgres
folder = Path(sys.argv[1])
kafka, postgres = EmbeddedKafka(folder / "kafka"), EmbeddedPostgres(folder / "postgres")
kafka.start(); postgres.start()
print(kafka.pid, postgres.pid, kafka.bootstrap, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_servers_end_with_a_parent_that_is_killed_and_start_again_on_its_data(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        kafka_pid, postgres_pid, bootstrap = parent.stdout.readline().split()
        servers = [int(kafka_pid), int(postgres_pid)]
        assert all(map(alive, servers))
        parent.kill()

    assert eventually(lambda: not any(map(alive, servers)), within_s=15)
    with EmbeddedKafka(tmp_path / "kafka") as kafka, EmbeddedPostgres(tmp_path / "postgres"):
        assert kafka.bootstrap == bootstrap  # the address stays valid


def test_a_kafka_that_does_not_start_shows_its_last_lines(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path, extra={"transaction.state.log.num.partitions": "many"})
    with pytest.raises(BrokerUnavailable, match=r"(?s)ended|formatter.*transaction.state.log.num.partitions"):
        kafka.start()
    assert not kafka.alive


def test_a_broker_that_ends_early_is_quoted(tmp_path: Path) -> None:
    script = "import sys; print('no space left on the moon'); sys.exit(3)"
    server = ServerProcess(
        "embedded Kafka", [sys.executable, "-c", script], log_file=tmp_path / "server.log", error=BrokerUnavailable
    )
    server.start()
    with pytest.raises(BrokerUnavailable, match=r"(?s)ended with code 3 .*no space left on the moon"):
        server.wait_until(lambda: False, timeout_s=20)


def test_a_server_that_is_never_ready_is_stopped_and_quoted(tmp_path: Path) -> None:
    script = "import time; print('thinking', flush=True); time.sleep(600)"
    server = ServerProcess(
        "embedded Kafka", [sys.executable, "-c", script], log_file=tmp_path / "server.log", error=BrokerUnavailable
    )
    server.start()
    with pytest.raises(BrokerUnavailable, match=r"(?s)not ready within 1 s.*thinking"):
        server.wait_until(lambda: False, timeout_s=1)
    assert not server.alive


def test_a_server_that_ignores_the_request_to_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    log_file = tmp_path / "server.log"
    server = ServerProcess(
        "server", [sys.executable, "-c", script], log_file=log_file, error=BrokerUnavailable, grace_s=0.3
    )
    server.start()
    server.wait_until(lambda: "deaf" in log_file.read_text(), timeout_s=20)
    pid = server.pid
    server.stop()
    assert pid is not None
    assert not alive(pid)


def test_a_server_ends_when_its_guard_is_killed(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the kernel's parent-death signal is Linux's")
    script = "import os, time; print(os.getppid(), flush=True); time.sleep(600)"
    log_file = tmp_path / "server.log"
    server = ServerProcess("server", [sys.executable, "-c", script], log_file=log_file, error=BrokerUnavailable)
    server.start()
    server.wait_until(lambda: log_file.read_text().strip() != "" and server.pid is not None, timeout_s=20)
    pid = server.pid
    assert pid is not None
    os.kill(int(log_file.read_text()), signal.SIGKILL)
    assert eventually(lambda: not alive(pid), within_s=5)
    server.stop()


def test_postgres_keeps_its_data_until_a_fresh_start(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres, psycopg.connect(postgres.dsn) as connection:
        connection.execute("CREATE TABLE kept (number int)")
    with EmbeddedPostgres(tmp_path) as postgres, psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    with EmbeddedPostgres(tmp_path, fresh=True) as postgres, psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)


def test_postgres_starts_again_after_its_postmaster_was_killed_under_a_client(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path)
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        assert eventually(lambda: not postgres.alive, within_s=10)
        postgres.start()
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (1,)
    postgres.stop()


def test_two_folders_run_side_by_side(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "one") as one, EmbeddedPostgres(tmp_path / "two") as two:
        assert one.dsn != two.dsn


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} \(--kafka-port\) is in use"):
            EmbeddedKafka(tmp_path, port=port).start()
        with pytest.raises(SettingsError, match=rf"port {port} \(--postgres-port\) is in use"):
            EmbeddedPostgres(tmp_path, port=port).start()


def test_a_data_folder_that_is_none_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "data"
    broken.mkdir(parents=True)
    (broken / "PG_VERSION").write_text("9\n")
    with pytest.raises(StoreUnavailable, match="last lines"):
        EmbeddedPostgres(tmp_path).start()


def test_a_port_that_is_no_broker_does_not_answer() -> None:
    with socket.create_server((LOOPBACK, 0)) as mute:
        assert not broker_answers(LOOPBACK, mute.getsockname()[1], timeout_s=0.2)
