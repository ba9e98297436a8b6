"""`streams inspect`: where an invocation stands, and what it waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.shown import STATUS_STYLES, clock, consoles, print_json, span
from streams.cli.target import AppOption, JsonOption, NamespaceOption, Target, target
from streams.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

VALUE_CHARS = 2_000


def check_invocation(text: str) -> str:
    """Return an invocation ID from the command line, or say how one is written."""
    from streams.records.ids import split_invocation_id

    try:
        split_invocation_id(text)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    return text


InvocationArgument = Annotated[
    str,
    typer.Argument(
        metavar="INVOCATION", callback=check_invocation, help="Its ID, agent/key/idempotency-key, as submit prints it."
    ),
]


def register(root: typer.Typer) -> None:
    """Add the command to *root*."""
    root.command("inspect")(inspect)


def inspect(
    invocation: InvocationArgument, app: AppOption = None, namespace: NamespaceOption = None, json: JsonOption = False
) -> None:
    """Say where an invocation stands and why it is waiting, or how it ended."""
    status = asyncio.run(_ask(target(app, namespace), invocation))
    if json:
        print_json(status)
        return
    out, _ = consoles()
    out.print(_table(status))
    for line in reasons(status):
        out.print(line, markup=False)


async def _ask(aim: Target, invocation: str) -> dict[str, Any]:
    async with aim.client() as client:
        return await client.handle(invocation).status()


def reasons(status: dict[str, Any]) -> list[str]:
    """Return why an invocation waits, a sentence for each thing that it waits for."""
    if status["phase"] == "finished":
        return []
    lines = [_reason(wait, status) for wait in status["waits_for"]]
    return lines or ["It waits for nothing: its shard is about to go on with it."]


def _reason(wait: dict[str, Any], status: dict[str, Any]) -> str:
    name, step, in_s = wait.get("name", ""), wait.get("step"), wait.get("in_s")
    since = f" for {span(wait['since_s'])}" if "since_s" in wait else ""
    match wait["kind"]:
        case "mailbox":
            return (
                f"Waits for its turn: {name} works on one invocation at a time, and this is number {wait['position']}."
            )
        case "not-before":
            return f"Waits for the time it was submitted for, in {span(in_s or 0.0)}."
        case "operator":
            return (
                f"Waits for an operator: {name or 'parked'}. Go on with: streams resume, restart or fail "
                f"{status['invocation']} --reason ..."
            )
        case "timer":
            return f"Waits for a timer (step {step}), {span(in_s or 0.0)} more."
        case "event":
            wake = wait.get("wake_in_s")
            return f"Rests until something comes for it{f', or for {span(wake)}' if wake else ''}."
        case "tool" | "llm" | "child" | "signal" as kind:
            what = {"tool": "tool", "llm": "model", "child": "agent", "signal": "signal"}[kind]
            left = wait.get("falls_back_in_s")
            until = f" Its fallback applies in {span(max(0.0, left))}." if left is not None else ""
            notice = f" Its worker says: {wait['notice']}." if "notice" in wait else ""
            return f"Waits for {what} {name!r} (step {step}){since}.{notice}{until}"
        case kind:
            return f"Waits for {kind} {name!r} (step {step}){since}."


def _table(status: dict[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, title=status["invocation"], title_justify="left", title_style="bold")
    phase = status.get("status") or status["phase"]
    table.add_row("stands", f"[{STATUS_STYLES.get(phase, 'bold')}]{phase}[/]")
    if status["phase"] == "finished":
        table.add_row("ended", clock(status["finished_at_ms"]))
        table.add_row("steps", str(status["steps"]))
        table.add_row("degraded", "yes" if status["degraded"] else "no")
        if status["error"]:
            table.add_row("error", escape(status["error"]))
        else:
            import orjson

            table.add_row("value", escape(orjson.dumps(status["value"]).decode()[:VALUE_CHARS]))
        return table
    table.add_row("submitted", f"{clock(status['submitted_at_ms'])}, {span(status['age_s'])} ago")
    table.add_row("started", clock(status["started_at_ms"]))
    table.add_row("deadline", clock(status["deadline_ms"]))
    table.add_row("version", f"{status['version'] or '-'}, incarnation {status['incarnation']}")
    table.add_row("steps done", str(status["completions"]))
    if status.get("reason"):
        table.add_row("parked", escape(status["reason"]))
    return table
