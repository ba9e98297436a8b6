"""`streams breakers list|open|close|reset|metrics-only`: the fleet's breakers, and orders that they obey."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.orders import Reason, operator
from streams.cli.shown import clock, consoles, print_json, span
from streams.cli.target import AppOption, JsonOption, NamespaceOption, Target, target
from streams.errors import UnknownName

if TYPE_CHECKING:
    from streams.breakers.operators import Action
    from streams.records.control import BreakerState

app = typer.Typer(
    name="breakers",
    help="Look at the breakers of tools, model pools and Postgres, and decide for them.",
    no_args_is_help=True,
)

PHASE_STYLES = {"closed": "green", "open": "bold red", "half-open": "yellow"}
FORCED_STYLE = "bold magenta"

DependencyArgument = Annotated[
    str, typer.Argument(metavar="DEPENDENCY", help="tool:NAME, llm:POOL or postgres; `list` has those it knows.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", help="Seconds to wait until the control plane has followed the order.", min=0.1)
]


def register(root: typer.Typer) -> None:
    """Add the commands to *root*."""
    root.add_typer(app)


@app.command("list")
def list_breakers(module_app: AppOption = None, namespace: NamespaceOption = None, json: JsonOption = False) -> None:
    """List every breaker that ever moved, and with --app those that never did: streams breakers list -a shop:app."""
    aim = target(module_app, namespace)
    states = asyncio.run(_read(aim))
    if json:
        print_json([asdict(state) for state in states])
        return
    out, err = consoles()
    if not states:
        err.print(f"No breaker of {aim.catalogue.namespace!r} has moved yet.")
        return
    from rich.markup import escape
    from rich.table import Column, Table

    first = (Column("dependency", no_wrap=True), Column("phase", no_wrap=True))
    table = Table(*first, "since", "until", "failed", "slow", "calls", "by", "why", box=None)
    for state in states:
        style = PHASE_STYLES.get(state.phase, FORCED_STYLE)
        table.add_row(
            escape(state.dependency), f"[{style}]{state.phase}[/]", clock(state.since_ms), _until(state),
            f"{state.failure_rate:.0%}", f"{state.slow_rate:.0%}", str(state.calls), escape(state.changed_by),
            escape(state.reason),
        )  # fmt: skip
    out.print(table)


def _command(action: Action, explanation: str) -> None:
    """Make the command of an order; all take the same."""

    @app.command(action, help=explanation)
    def order(
        dependency: DependencyArgument,
        reason: Reason,
        module_app: AppOption = None,
        namespace: NamespaceOption = None,
        timeout: TimeoutOption = 15.0,
    ) -> None:
        _order(action, dependency, reason, target(module_app, namespace), timeout)


_command("open", 'Let no call out until someone resets it: streams breakers open tool:crm -r "incident 7" -s shop.')
_command("close", "Let every call out, however many fail, until someone resets it.")
_command("reset", "Close it and leave it to its thresholds again, as if it had never opened.")
_command("metrics-only", "Count its calls and open it never, until someone resets it: to see what thresholds would do.")


def known(aim: Target) -> list[str]:
    """Return the dependencies that an application and its settings declare; empty where its code is not at hand."""
    if aim.app is None:
        return []
    pools = {f"llm:{name}" for name in aim.settings.llm.pools}
    return sorted({tool.dependency for tool in aim.app.tools.values()} | pools | {"postgres"})


async def _read(aim: Target) -> list[BreakerState]:
    from streams.breakers import closed
    from streams.breakers.operators import read_states

    async with aim.broker() as broker:
        states = await read_states(broker, aim.catalogue)
    return [states.get(name) or closed(name) for name in sorted({*states, *known(aim)})]


def _order(action: Action, dependency: str, reason: str, aim: Target, timeout_s: float) -> None:
    from streams.breakers.operators import give_order

    if not reason.strip():
        raise typer.BadParameter("--reason is empty; say why, for those who come after")
    if (there := known(aim)) and dependency not in there:
        raise UnknownName(f"{dependency!r} is no dependency of {aim.catalogue.namespace!r}; it has {', '.join(there)}")

    async def give() -> BreakerState:
        async with aim.broker() as broker:
            return await give_order(
                broker, aim.catalogue, action, dependency, by=operator(), reason=reason,
                now_ms=time.time_ns() // 1_000_000, timeout_s=timeout_s,
            )  # fmt: skip

    state = asyncio.run(give())
    consoles()[0].print(f"{dependency}: {state.phase}, by {state.changed_by}: {state.reason}", markup=False)


def _until(state: BreakerState) -> str:
    end_ms = state.until_ms if state.phase == "open" else state.probe_expires_ms
    if state.phase not in {"open", "half-open"}:
        return "-"
    left_s = end_ms / 1000 - time.time()
    return f"{clock(end_ms)} (in {span(left_s)})" if left_s > 0 else clock(end_ms)
