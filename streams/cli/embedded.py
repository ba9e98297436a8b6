"""The servers that a command needs: those it was told of, those that `streams servers up` keeps, or its own.

Starts what is missing, Kafka and Postgres at the same time, says what it does, and stops what it started. Where Java is
missing and a Docker engine answers, a container takes the place of the embedded broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from streams.broker.embedded import DURABILITY_NOTICE, EmbeddedKafka
from streams.broker.jars import jars_folder
from streams.broker.server_process import last_lines
from streams.cli.server_state import ServerAddresses, keeper, keeping, publish
from streams.errors import BrokerUnavailable, PrerequisiteMissing, StoreUnavailable, StreamsError
from streams.memory.embedded import EmbeddedPostgres
from streams.testing import containers

FOLDER = Path(".streams")
"""Data, logs and state are kept in the current directory, so that two checkouts do not meet."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How servers are started.

    Attributes:
        folder: For data, logs and state.
        fresh: Throw away what an earlier start left there.
        fsync: Sync every write of Kafka to disk before it is acknowledged.
        kafka_port: The one used last time or a free one when None.
        postgres_port: Likewise.
    """

    folder: Path = FOLDER
    fresh: bool = False
    fsync: bool = False
    kafka_port: int | None = None
    postgres_port: int | None = None


@dataclass(frozen=True, slots=True)
class RunningServers:
    """Servers that answer.

    Attributes:
        addresses: Where.
        check: Raises with the last lines of a server that this process started and that has ended since.
    """

    addresses: ServerAddresses
    check: Callable[[], None]


@contextmanager
def servers(
    options: ServerOptions,
    *,
    bootstrap_servers: str | None = None,
    dsn: str | None = None,
    report: Report = print,
) -> Iterator[RunningServers]:
    """Yield servers that answer, starting those that are not given.

    Args:
        options: For the servers that are started.
        bootstrap_servers: A Kafka that runs already; usually from the settings.
        dsn: A Postgres that runs already.
        report: Takes one line of progress at a time.

    Raises:
        PrerequisiteMissing: A server cannot be started on this machine; names three ways out.
        SettingsError: A port is in use, or another process is starting the servers of this folder.
        BrokerUnavailable: The broker did not start; has its last lines.
        StoreUnavailable: Postgres did not start; has its last lines.
    """
    if bootstrap_servers and dsn:
        yield RunningServers(ServerAddresses(bootstrap_servers, dsn), _nothing_to_check)
        return
    kept = keeper(options.folder)
    if kept is not None and kept.addresses is not None:
        report(f"Using the servers that process {kept.pid} keeps (streams servers status).")
        yield RunningServers(
            ServerAddresses(bootstrap_servers or kept.addresses.bootstrap_servers, dsn or kept.addresses.dsn),
            _nothing_to_check,
        )
        return
    with keeping(options.folder), ExitStack() as started:
        running = _start_missing(options, bootstrap_servers, dsn, started, report)
        publish(options.folder, running.addresses)
        yield running
        report("Stopping the servers.")


def _start_missing(
    options: ServerOptions, bootstrap_servers: str | None, dsn: str | None, started: ExitStack, report: Report
) -> RunningServers:
    began = time.monotonic()
    checks: list[Callable[[], None]] = []

    def kafka() -> str:
        if bootstrap_servers:
            return bootstrap_servers
        address, check = _start_kafka(options, started, report)
        checks.append(check)
        report(f"Kafka answers at {address} after {time.monotonic() - began:.1f} s.")
        return address

    def postgres() -> str:
        if dsn:
            return dsn
        server = EmbeddedPostgres(
            options.folder / "postgres", fsync=True, fresh=options.fresh, port=options.postgres_port
        )
        started.callback(server.stop)
        server.start()
        checks.append(lambda: _check(server.alive, "embedded Postgres", server.log_file, StoreUnavailable))
        report(f"Postgres answers at {server.dsn} after {time.monotonic() - began:.1f} s.")
        return server.dsn

    with ThreadPoolExecutor(2) as both:
        broker, store = both.submit(kafka), both.submit(postgres)
        addresses = ServerAddresses(broker.result(), store.result())

    def check() -> None:
        for one in checks:
            one()

    return RunningServers(addresses, check)


def _start_kafka(options: ServerOptions, started: ExitStack, report: Report) -> tuple[str, Callable[[], None]]:
    server = EmbeddedKafka(options.folder / "kafka", fsync=options.fsync, fresh=options.fresh, port=options.kafka_port)
    started.callback(server.stop)
    report(
        "Starting Kafka." if jars_folder().is_dir() else "Starting Kafka, for which Maven fetches 43 MB of jars once."
    )
    try:
        server.start()
    except PrerequisiteMissing:
        container = containers.start_kafka()
        if container is None:
            raise
        report("No Java with Maven here: Kafka runs in a container, which keeps nothing.")
        started.callback(container.stop)
        return container.address, _nothing_to_check
    if not options.fsync:
        report(DURABILITY_NOTICE)
    return server.bootstrap, lambda: _check(server.alive, "embedded Kafka", server.log_file, BrokerUnavailable)


def _check(alive: bool, name: str, log_file: Path, error: type[StreamsError]) -> None:
    if not alive:
        raise error(f"{name} has ended; {last_lines(log_file)}")


def _nothing_to_check() -> None:
    """For servers that somebody else keeps."""
