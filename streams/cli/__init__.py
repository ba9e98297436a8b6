"""The `streams` command: one module for each command or group of them, put together here.

Commands import what they need when they run, so that `streams --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli import (
    breakers,
    dead_letters,
    demo,
    inspection,
    lag,
    llm,
    mcp,
    memory,
    orders,
    results,
    run,
    servers,
    settings,
    state,
    submit,
    topics,
)
from streams.cli.failures import Commands

HELP = "\n\n".join(
    (
        "Run AI agents on Kafka so that nothing is lost and nothing is done twice.",
        "An [bold]agent[/] is an async function; an [bold]invocation[/] is one request to it, and ends in exactly one "
        "[bold]result[/]. Agents and their tools are declared on an App, which commands name as MODULE:APP, such as "
        "payments.agents:app. Kafka and Postgres are those of the settings, or are started here.",
        "First steps: [bold]streams demo[/] shows it at work; [bold]streams dev MODULE:APP[/] runs your agents with "
        "servers of their own; [bold]streams submit AGENT --app MODULE:APP --input JSON[/] asks one of them.",
    )
)

app = typer.Typer(
    name="streams",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    help=HELP,
)

COMMANDS = {
    "Run agents": (demo, run),
    "Ask them": (submit, results, inspection),
    "Operate": (lag, orders, breakers, llm, state, dead_letters),
    "Set up": (topics, memory, mcp, settings),
}
"""Modules with a `register(app)`, by the heading under which their commands stand."""

for heading, modules in COMMANDS.items():
    for module in modules:
        added = typer.Typer()
        module.register(added)
        for command in added.registered_commands:
            command.rich_help_panel = heading
        for group in added.registered_groups:
            group.rich_help_panel = heading
        app.registered_commands += added.registered_commands
        app.registered_groups += added.registered_groups
app.add_typer(servers.app, rich_help_panel="Set up")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every command; read by `Commands`."""


def main() -> None:
    """Run the command line; the entry point of the `streams` script."""
    app(prog_name="streams")
