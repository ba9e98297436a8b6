"""What operators and people in the loop say to running agents: orders, signals, cancels."""

from __future__ import annotations

import asyncio
import getpass
from typing import Annotated

import typer

from streams.cli.inspection import InvocationArgument
from streams.cli.shown import consoles, parse_json
from streams.cli.target import AppOption, NamespaceOption, target

Reason = Annotated[str, typer.Option("--reason", "-r", help="Kept with the order, for those who come after.")]
AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Name of the agent; all its instances are meant.")]


def register(root: typer.Typer) -> None:
    """Add the commands to *root*."""
    for command in (resume, restart, fail, pause, unpause, signal, cancel):
        root.command()(command)


def resume(
    invocation: InvocationArgument, reason: Reason, app: AppOption = None, namespace: NamespaceOption = None
) -> None:
    """Let a parked invocation go on where it was, once the code that fits its journal is deployed."""
    _order("resume", invocation, reason, app, namespace)


def restart(
    invocation: InvocationArgument, reason: Reason, app: AppOption = None, namespace: NamespaceOption = None
) -> None:
    """Run an invocation again from its beginning; at-most-once calls that it made keep their outcome."""
    _order("restart", invocation, reason, app, namespace)


def fail(
    invocation: InvocationArgument, reason: Reason, app: AppOption = None, namespace: NamespaceOption = None
) -> None:
    """End an invocation as failed, with the reason as its error."""
    _order("fail", invocation, reason, app, namespace)


def pause(agent: AgentArgument, reason: Reason, app: AppOption = None, namespace: NamespaceOption = None) -> None:
    """Start no more invocations of an agent; those that come are kept, those that run go on."""
    _order("pause", _name(agent), reason, app, namespace)


def unpause(agent: AgentArgument, reason: Reason, app: AppOption = None, namespace: NamespaceOption = None) -> None:
    """Start invocations of a paused agent again."""
    _order("unpause", _name(agent), reason, app, namespace)


def signal(
    invocation: InvocationArgument,
    name: Annotated[str, typer.Argument(help="As in ctx.signal(NAME, ...).")],
    value: Annotated[str, typer.Option("--value", metavar="JSON", help="What the handler gets.")] = "null",
    signal_id: Annotated[
        str | None, typer.Option("--id", help="The same one is delivered once.", show_default="a new one")
    ] = None,
    app: AppOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Send a value to the handler that waits for it, or will: streams signal ID approval --value true."""
    data = parse_json(value, "--value")
    aim = target(app, namespace)

    async def send() -> None:
        async with aim.client() as client:
            await client.handle(invocation).signal(name, data, signal_id=signal_id)

    asyncio.run(send())
    consoles()[0].print(f"{invocation}: signal {name!r} is sent", markup=False)


def cancel(
    invocation: InvocationArgument,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")] = "cancelled by its caller",
    app: AppOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Ask an invocation to end; its handler may clean up, then its result is `cancelled`."""
    aim = target(app, namespace)

    async def send() -> None:
        async with aim.client() as client:
            await client.handle(invocation).cancel(reason)

    asyncio.run(send())
    consoles()[0].print(f"{invocation}: asked to end", markup=False)


def _order(action: str, subject: str, reason: str, app: str | None, namespace: str | None) -> None:
    if not reason.strip():
        raise typer.BadParameter("--reason is empty; say why, for those who come after")
    aim = target(app, namespace)

    async def give() -> str:
        async with aim.client() as client:
            return await client.order(action, subject, reason=reason, by=operator())

    consoles()[0].print(f"{subject}: {asyncio.run(give())}", markup=False)


def _name(agent: str) -> str:
    if "/" in agent:
        raise typer.BadParameter(
            f"{agent!r} names one instance; pause and unpause take an agent's name, such as {agent.split('/')[0]!r}"
        )
    return agent


def operator() -> str:
    """Return who gives an order: the user of this machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number that has no name
        return "operator"
