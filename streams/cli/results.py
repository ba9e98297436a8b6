"""`streams results`: the result topic, for people or as JSON lines."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.shown import STATUS_STYLES, clock, consoles, print_json, span
from streams.cli.target import AppOption, NamespaceOption, Target, target
from streams.errors import CodecError

if TYPE_CHECKING:
    from streams.records.invocations import Result

VALUE_CHARS = 200


def register(root: typer.Typer) -> None:
    """Add the command to *root*."""
    root.command("results")(results)


def results(
    app: AppOption = None,
    namespace: NamespaceOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="With --follow: begin with what is kept, not with what comes.")
    ] = False,
    most: Annotated[
        int | None, typer.Option("--max", "-n", min=1, help="End after so many.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each, on a line of its own.")] = False,
) -> None:
    """Print results: those that are kept, or with --follow those that come."""
    aim = target(app, namespace)
    try:
        asyncio.run(_tail(aim, follow=follow, from_beginning=from_beginning or not follow, most=most, json=json))
    except KeyboardInterrupt:
        pass  # the way to end it


async def _tail(aim: Target, *, follow: bool, from_beginning: bool, most: int | None, json: bool) -> None:
    from streams.cli.tail import records
    from streams.client.inbox import read_result
    from streams.records.json import result_to_json

    out, err = consoles()
    topic, printed = aim.catalogue.name("results"), 0
    async with aim.broker() as broker:
        if follow and not json:
            err.print(f"Results of {aim.catalogue.namespace!r} on {broker.address}; Ctrl-C ends this.", style="dim")
        async with aclosing(records(broker, topic, from_beginning=from_beginning, follow=follow)) as batches:
            async for batch in batches:
                for record in batch:
                    try:
                        result = read_result(record)
                    except CodecError as error:
                        err.print(f"{topic}[{record.partition}]@{record.offset}: {error}", style="red", markup=False)
                        continue
                    if json:
                        print_json(result_to_json(result), indent=False)
                    else:
                        out.print(_line(result), no_wrap=True, crop=False)
                    printed += 1
                    if printed == most:
                        return
    if not printed and not json:
        err.print(f"{topic} has no results.")


def _line(result: Result) -> str:
    from rich.markup import escape

    style = STATUS_STYLES.get(result.status, "bold")
    took = span((result.finished_at_ms - result.submitted_at_ms) / 1000) if result.finished_at_ms else "-"
    said = (result.value or b"").decode("utf-8", "replace")
    if result.error_type:
        said = f"{result.error_type}: {result.error_message}"
    marks = " ".join(mark for mark, there in (("degraded", result.degraded), ("repeated", result.repeated)) if there)
    said = said if len(said) <= VALUE_CHARS else f"{said[:VALUE_CHARS]}..."
    return (
        f"[dim]{clock(result.finished_at_ms)}[/] [{style}]{result.status:<9}[/] {escape(result.id)} [dim]{took}[/] "
        f"{f'[yellow]{marks}[/] ' if marks else ''}{escape(said)}"
    )
