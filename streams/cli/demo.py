"""`streams demo`: the payments demo from nothing to a verdict."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from streams.cli.run import chosen_roles, create_topics, export_addresses, given_addresses
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from streams.cli.supervisor import Supervisor

T = TypeVar("T")

APP = "streams.demo.app:app"

console = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command("demo")(demo)


def demo(
    invocations: Annotated[int, typer.Option("--invocations", "-n", min=1, help="Disputes to publish.")] = 600,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Most of them open at a time.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
    kill: Annotated[bool, typer.Option("--kill", help="kill -9 the process of each role once, while it runs.")] = False,
    seed: Annotated[int, typer.Option(help="Of the disputes and of the accounts' changes.")] = 0,
) -> None:
    """Run the payments demo: disputes through real Kafka topics and a real Postgres, judged by an oracle.

    Starts Kafka and Postgres (or uses those of the settings), a mock model provider, and one process for each role.
    Exits with 1 if an invocation is lost, answered twice or answered wrongly.
    """
    began = time.monotonic()
    # The control role starts with the others; that there is no signal yet is no news here.
    logging.getLogger("streams.client").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="streams-demo-") as folder, _world(Path(folder), seed):
        settings = load_settings()
        create_topics(APP, settings)
        figures = asyncio.run(_run(settings, invocations, concurrency, seed, kill=kill, logs=Path(folder) / "logs"))
    console.print(f"All done after {time.monotonic() - began:.1f} s.")
    if json:
        print(orjson.dumps(figures["report"]).decode(), flush=True)
    if not figures["passed"]:
        raise typer.Exit(1)


@contextmanager
def _world(folder: Path, seed: int) -> Iterator[None]:
    """Start what surrounds the pipeline, and name it in the environment for this process and the roles'."""
    from streams.cli.embedded import ServerOptions, servers
    from streams.demo.world import demo_world

    given = given_addresses()
    options = ServerOptions(folder=folder / "servers", fresh=True)
    with (
        servers(options, bootstrap_servers=given[0], dsn=given[1], report=console.print) as running,
        demo_world(seed=seed),
    ):
        export_addresses(running.addresses.bootstrap_servers, running.addresses.dsn)
        # Of its own, so that servers which others use too are left as they were but for these topics.
        os.environ["STREAMS_NAMESPACE"] = f"payments-demo-{uuid.uuid4().hex[:8]}"
        yield


async def _run(
    settings: Settings, invocations: int, concurrency: int, seed: int, *, kill: bool, logs: Path
) -> dict[str, object]:
    from streams import Client
    from streams.broker.connect import open_broker
    from streams.cli.supervisor import Child, Supervisor
    from streams.demo.app import BANK_VARIABLE, app
    from streams.demo.domain import disputes
    from streams.demo.drive import Tally, count_results, drive, judge_decisions, report

    children = [
        Child(role, ["run", APP, "--role", role], {"STREAMS_INSTANCE_ID": f"demo-{role}"})
        for role in chosen_roles(None)
    ]
    broker = open_broker(settings.kafka)
    namespace = settings.namespace
    try:
        async with Supervisor(children, logs=logs, report=console.print) as supervisor:
            console.print(f"Publishing {invocations} disputes under {namespace!r}, {concurrency} at a time;")
            console.print("the first one waits for the processes to come up.")
            async with Client(app, settings=settings) as client:
                with _progress(invocations) as advance:
                    killer = asyncio.create_task(_kill_each(supervisor, advance, invocations)) if kill else None
                    tally: Tally = await _unless_failed(
                        supervisor,
                        drive(
                            client,
                            list(disputes(invocations, seed)),
                            concurrency=concurrency,
                            progress=advance,
                            run_id=namespace,
                        ),
                    )
                    if killer is not None:
                        await killer
            await count_results(broker, settings, tally)
            await judge_decisions(os.environ[BANK_VARIABLE], tally)
        await broker.admin.delete_topics(
            [name for name in await broker.admin.list_topics() if name.startswith(f"{namespace}.")]
        )
    finally:
        await broker.close()
    figures = report(tally)
    _summary(asdict(figures), tally.wrong, tally.elapsed_s)
    return {"report": asdict(figures), "passed": figures.passed}


async def _unless_failed(supervisor: Supervisor, work: Coroutine[Any, Any, T]) -> T:
    """Await *work*, but no longer once a process does not stay up.

    Raises:
        StreamsError: That it does not, with its last lines.
    """
    working, failing = asyncio.ensure_future(work), asyncio.ensure_future(supervisor.wait())
    try:
        await asyncio.wait((working, failing), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            failing.result()
        return await working
    finally:
        working.cancel()
        failing.cancel()
        await asyncio.gather(working, failing, return_exceptions=True)


class _Advance:
    """Moves the bar, and counts for whoever waits for a share of the run."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("disputes", total=total, rate=0.0, degraded=0)
        self._started = time.monotonic()
        self.done = 0

    def __call__(self, tally: object) -> None:
        self.done += 1
        elapsed = max(time.monotonic() - self._started, 0.001)
        self._bar.update(self._task, completed=self.done, rate=self.done / elapsed)


@contextmanager
def _progress(total: int) -> Iterator[_Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=False) as bar:
        yield _Advance(bar, total)


async def _kill_each(supervisor: Supervisor, advance: _Advance, total: int) -> None:
    """kill -9 each role's process once, spread over the run."""
    for number, child in enumerate(supervisor.children, start=1):
        while advance.done < total * number // (len(supervisor.children) + 2):  # noqa: ASYNC110 - a share gives no event
            await asyncio.sleep(0.02)
        if (pid := child.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            console.print(f"kill -9 {pid} ({child.name}) after {advance.done} disputes")


def _summary(figures: dict[str, object], wrong: list[str], elapsed_s: float) -> None:
    table = RichTable(title=f"Payments demo, {elapsed_s:.1f} s", show_header=False)
    names = {"p50_ms": "latency p50, ms", "p99_ms": "latency p99, ms", "per_s": "disputes per second"}
    for name, value in figures.items():
        bad = name in ("lost", "duplicates", "wrong", "failed") and value
        table.add_row(names.get(name, name), f"[bold red]{value}[/]" if bad else str(value))
    console.print(table)
    for line in wrong[:10]:
        console.print(f"wrong: {line}", style="red")
    sys.stderr.flush()
