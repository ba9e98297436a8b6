"""`streams run` and `streams dev`: roles of an application, in this process or in several."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from streams.cli.loading import load_app
from streams.errors import ConfigurationError
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from streams.app import App
    from streams.cli.roles import Role

console = Console(stderr=True)

AppName = Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the App is, such as payments.agents:app.")]
RoleNames = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        help="Role to run: shards, tools, llm, memory, control or gateway. Repeatable; by default all, the gateway "
        "only with STREAMS_GATEWAY__PORT.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command("run")(run)
    app.command("dev")(dev)


def run(
    module_app: AppName,
    role: RoleNames = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes, each with the same roles; supervised.")] = 1,
    create: Annotated[bool, typer.Option("--create-topics", help="Create the topics that are missing first.")] = False,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run roles of an application until it is told to end (SIGINT or SIGTERM).

    Kafka and Postgres are those of the settings: STREAMS_KAFKA__BOOTSTRAP_SERVERS, STREAMS_MEMORY__DSN.
    """
    from streams.cli.roles import pin_hash_seed, run_until_signal

    roles = chosen_roles(role)
    if processes > 1:
        settings = load_settings()
        load_app(module_app)
        if create:
            create_topics(module_app, settings)
        asyncio.run(_supervise(module_app, roles, processes, settings))
        return
    pin_hash_seed()
    settings = load_settings()
    app = load_app(module_app)
    if create:
        create_topics(module_app, settings)
    run_until_signal(app, settings, roles, parent=parent)


def dev(
    module_app: AppName,
    role: RoleNames = None,
    fresh: Annotated[bool, typer.Option(help="Throw away the data of an earlier start.")] = False,
    fsync: Annotated[bool, typer.Option(help="Let Kafka sync every write to disk.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where data and logs are kept.")] = Path(".streams"),
) -> None:
    """Start Kafka and Postgres here, create the topics, and run every role until Ctrl-C."""
    from streams.cli.embedded import ServerOptions, servers
    from streams.cli.roles import pin_hash_seed, run_until_signal

    pin_hash_seed()
    roles = chosen_roles(role)
    app = load_app(module_app)
    _find_tools(app)
    options = ServerOptions(folder=folder, fresh=fresh, fsync=fsync)
    given = given_addresses()
    with servers(options, bootstrap_servers=given[0], dsn=given[1], report=console.print) as running:
        export_addresses(running.addresses.bootstrap_servers, running.addresses.dsn)
        settings = load_settings()
        create_topics(module_app, settings)
        with _demo_world(module_app):
            settings = load_settings()
            console.print(f"Running {', '.join(roles)} of {app.name!r}. Another terminal can now do, for example:")
            console.print(f"  export STREAMS_KAFKA__BOOTSTRAP_SERVERS={running.addresses.bootstrap_servers}")
            console.print(f"  streams submit AGENT --app {module_app} --input '{{...}}'    streams results --follow")
            run_until_signal(app, settings, roles)


def _find_tools(app: App) -> None:
    """Ask the MCP servers whose tools are not pinned yet: who tries something out should not need another command."""
    if missing := [tools for tools in app.mcp_servers.values() if not tools.loaded]:
        from streams.cli.mcp import write_manifests

        asyncio.run(write_manifests(missing))
        for tools in missing:
            tools.load()


def _demo_world(module_app: str) -> AbstractContextManager[object]:
    """Return a context in which the demo's provider and bank run, where it is the demo that is run."""
    if not module_app.startswith("streams.demo."):
        return nullcontext()
    from streams.demo.world import demo_world

    return demo_world()


def chosen_roles(names: list[str] | None) -> tuple[Role, ...]:
    """Return the roles asked for; the default ones when none is named.

    Raises:
        ConfigurationError: A name that is no role.
    """
    from streams.cli.roles import ROLES, default_roles

    if not names:
        return default_roles(load_settings())
    for name in names:
        if name not in ROLES:
            raise ConfigurationError(f"{name!r} is not a role; roles are {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in names)


def given_addresses() -> tuple[str | None, str | None]:
    """Return the addresses of Kafka and Postgres that the environment names."""
    return os.environ.get("STREAMS_KAFKA__BOOTSTRAP_SERVERS"), os.environ.get("STREAMS_MEMORY__DSN")


def export_addresses(bootstrap_servers: str, dsn: str) -> None:
    """Name the servers in this process's environment, for itself and its children."""
    os.environ["STREAMS_KAFKA__BOOTSTRAP_SERVERS"] = bootstrap_servers
    os.environ["STREAMS_MEMORY__DSN"] = dsn


def create_topics(module_app: str, settings: Settings) -> None:
    """Create the topics of an application that are missing."""
    from streams.broker.connect import open_broker
    from streams.broker.topics import create_namespace

    app = load_app(module_app)

    async def create() -> None:
        broker = open_broker(settings.kafka)
        try:
            await broker.connect()
            catalogue = settings.catalogue(app.name, dict(app.lanes()))
            await create_namespace(broker.admin, catalogue, settings.replication)
        finally:
            await broker.close()

    asyncio.run(create())


async def _supervise(module_app: str, roles: tuple[Role, ...], processes: int, settings: Settings) -> None:
    from streams.cli.roles import process_environment
    from streams.cli.supervisor import Child, Supervisor

    options = [word for role in roles for word in ("--role", role)]
    children = [
        Child(f"process-{number}", ["run", module_app, *options], process_environment(settings, number))
        for number in range(processes)
    ]
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    async with Supervisor(children, report=lambda line: print(line, file=sys.stderr)) as supervisor:
        ended = asyncio.ensure_future(asked.wait())
        failed = asyncio.ensure_future(supervisor.wait())
        await asyncio.wait((ended, failed), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if failed.done():
            failed.result()
        failed.cancel()
