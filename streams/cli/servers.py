"""`streams servers up|down|status|logs`: an embedded Kafka and Postgres that outlive a command.

`up` leaves a keeper in the background, or is the keeper itself with `--foreground`; the servers end with the keeper.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from streams.broker.server_process import last_lines
from streams.cli.embedded import FOLDER, ServerOptions, servers
from streams.cli.server_state import Keeper, ServerAddresses, keeper
from streams.errors import StreamsError

app = typer.Typer(
    name="servers",
    help="Start and stop a Kafka and a Postgres on this machine, for development.",
    no_args_is_help=True,
)

_UP_TIMEOUT_S = 700.0  # the first start on a machine fetches Kafka's jars
_DOWN_TIMEOUT_S = 40.0

Folder = Annotated[Path, typer.Option("--dir", help="Where data, logs and state are kept.")]


@app.command()
def up(
    folder: Folder = FOLDER,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what an earlier start left.")] = False,
    fsync: Annotated[bool, typer.Option("--fsync", help="Sync every write of Kafka to disk; slower.")] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay here until Ctrl-C.")] = False,
    kafka_port: Annotated[
        int | None, typer.Option(help="Port of Kafka; the last one or a free one by default.")
    ] = None,
    postgres_port: Annotated[int | None, typer.Option(help="Port of Postgres; likewise.")] = None,
) -> None:
    """Start Kafka and Postgres and print the settings that point to them."""
    options = ServerOptions(folder.absolute(), fresh, fsync, kafka_port, postgres_port)
    kept = keeper(options.folder)
    if kept is not None and kept.addresses is not None and not foreground:
        typer.echo(f"Kept by process {kept.pid} already.")
        _print_settings(kept.addresses)
        return
    if foreground:
        _keep(options)
    else:
        _print_settings(_keep_in_background(options))


@app.command()
def down(folder: Folder = FOLDER) -> None:
    """Stop the servers that `up` started; their data stays."""
    kept = keeper(folder)
    if kept is None:
        typer.echo("No servers are running here.")
        return
    if kept.pid:
        os.kill(kept.pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_TIMEOUT_S
    while keeper(folder) is not None:
        if time.monotonic() > deadline:
            _fail(f"process {kept.pid} did not end within {_DOWN_TIMEOUT_S:.0f} s; its log is {_keeper_log(folder)}")
        time.sleep(0.05)
    typer.echo("Stopped.")


@app.command()
def status(folder: Folder = FOLDER) -> None:
    """Say whether servers run here and where they answer; exits 1 when none do."""
    kept = keeper(folder)
    if kept is None:
        typer.echo(f"No servers are running here. Start them with: streams servers up --dir {folder}")
        raise typer.Exit(1)
    if kept.addresses is None:
        typer.echo(f"Process {kept.pid} is starting them.")
        return
    typer.echo(f"Kept by process {kept.pid}.")
    _print_settings(kept.addresses)


@app.command()
def logs(
    folder: Folder = FOLDER,
    lines: Annotated[int, typer.Option(help="How many of each, from the end.")] = 40,
) -> None:
    """Print the end of what Kafka, Postgres and their keeper said."""
    for log_file in (folder / "kafka" / "server.log", folder / "postgres" / "server.log", _keeper_log(folder)):
        if log_file.exists():
            typer.echo(last_lines(log_file, lines))


def _keep(options: ServerOptions) -> None:
    """Hold the servers until somebody asks this process to end, or one of them does."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    try:
        with servers(options, report=_say) as running:
            _print_settings(running.addresses)
            while not asked.wait(1.0):
                running.check()
    except StreamsError as error:
        _fail(str(error))


def _keep_in_background(options: ServerOptions) -> ServerAddresses:
    options.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "streams", "servers", "up", "--foreground", "--dir", str(options.folder)]
    command += ["--fresh"] * options.fresh + ["--fsync"] * options.fsync
    for name, port in (("--kafka-port", options.kafka_port), ("--postgres-port", options.postgres_port)):
        command += [name, str(port)] if port is not None else []
    log_file = _keeper_log(options.folder)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    shown = 0
    deadline = time.monotonic() + _UP_TIMEOUT_S
    while True:
        kept = keeper(options.folder)
        ended = process.poll() is not None
        said = log_file.read_text(errors="replace").splitlines()
        for line in said[shown:]:
            if not line.startswith("export "):  # comes from here, on standard output
                typer.echo(line, err=True)
        shown = len(said)
        ready = _addresses_of(kept, process.pid)
        if ready is not None:
            return ready
        if ended:
            raise typer.Exit(1)
        if time.monotonic() > deadline:
            process.terminate()
            _fail(f"the servers did not answer within {_UP_TIMEOUT_S:.0f} s; {last_lines(log_file)}")
        time.sleep(0.05)


def _addresses_of(kept: Keeper | None, pid: int) -> ServerAddresses | None:
    return kept.addresses if kept is not None and kept.pid == pid else None


def _print_settings(addresses: ServerAddresses) -> None:
    for name, value in addresses.environment().items():
        typer.echo(f"export {name}={value}")


def _keeper_log(folder: Path) -> Path:
    return folder / "servers.log"


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
