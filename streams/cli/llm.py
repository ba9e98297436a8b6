"""`streams llm status|limits|usage`: what the model pools hold and have left, live limits, and what was used."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.orders import operator
from streams.cli.shown import clock, consoles, print_json, span
from streams.cli.target import AppOption, JsonOption, NamespaceOption, Target, target
from streams.errors import ConfigurationError, InvalidInput, TopicError

if TYPE_CHECKING:
    from rich.table import Table

    from streams.broker.port import Broker
    from streams.records.control import Limit, PoolReport, Usage

app = typer.Typer(
    name="llm",
    help="See what model pools hold, what is left of their limits and what was used; change limits while they work.",
    no_args_is_help=True,
)

QUANTITIES = {"requests": "requests", "tokens": "tokens", "input_tokens": "input", "output_tokens": "output"}
PerMinute = Annotated[float | None, typer.Option(metavar="N", help="A minute, of each key.", show_default=False)]


def register(root: typer.Typer) -> None:
    """Add the commands to *root*."""
    root.add_typer(app)


@app.command()
def status(module_app: AppOption = None, namespace: NamespaceOption = None, json: JsonOption = False) -> None:
    """Show what each model pool holds, for how long, and what each key has left: streams llm status --app shop:app."""
    aim = target(module_app, namespace)
    reports = asyncio.run(_reports(aim))
    if json:
        print_json([_plain(report) for report in reports])
        return
    out, err = consoles()
    if not reports:
        err.print(f"No dispatcher of {aim.catalogue.namespace!r} reports; is a process with --role llm up?")
        raise typer.Exit(1)
    for pool in dict.fromkeys(report.pool for report in reports):
        _show(out, pool, [_plain(report) for report in reports if report.pool == pool])


@app.command()
def limits(
    pool: Annotated[
        str | None, typer.Argument(metavar="[POOL]", help="Pool whose limits to change, or one of its keys: fast/1.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Or the tenant whose budget to change.", show_default=False)
    ] = None,
    requests: PerMinute = None,
    tokens: PerMinute = None,
    input_tokens: PerMinute = None,
    output_tokens: PerMinute = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="Calls at once, of each key.", show_default=False)
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a tenant in a window.", show_default=False)
    ] = None,
    budget_cost: Annotated[
        float | None, typer.Option(metavar="X", help="Cost of a tenant in a window.", show_default=False)
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Take the last change back: as configured again.")] = False,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help="Needed for a change; kept for those who come after.")
    ] = "",
    module_app: AppOption = None,
    namespace: NamespaceOption = None,
    json: JsonOption = False,
) -> None:
    """Change limits while everything runs, or without a pool or tenant list what was changed, by whom and why.

    What is not given stays as it was changed before: streams llm limits fast --requests 300 --reason "shared key" --app
    shop:app. Dispatchers follow at once and after a restart, until --reset.
    """
    from streams.llm.live_limits import TENANT
    from streams.records.control import Limit

    aim = target(module_app, namespace)
    given = {
        "requests_per_minute": requests,
        "tokens_per_minute": tokens,
        "input_tokens_per_minute": input_tokens,
        "output_tokens_per_minute": output_tokens,
        "concurrency": concurrency,
        "budget_tokens": budget_tokens,
        "budget_cost": budget_cost,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if pool and tenant:
        raise ConfigurationError("name a pool or a tenant, not both; they are changed one after the other")
    subject = pool or (f"{TENANT}{tenant}" if tenant else "")
    if not subject:
        if given or reset:
            raise ConfigurationError("it is not said whose limits to change; name a pool, or give --tenant NAME")
        _list(asyncio.run(_changes(aim)), json=json)
        return
    if reset and given:
        raise ConfigurationError("--reset takes the whole change back; leave the limits out, or leave out --reset")
    if not reason.strip():
        raise typer.BadParameter("--reason is empty; say why, for those who come after")
    change = None if reset else Limit(subject, operator(), reason, int(time.time() * 1000), **given)  # type: ignore[arg-type]
    said = asyncio.run(_change(aim, subject, change))
    consoles()[0].print(f"{subject}: {said}", markup=False)


@app.command()
def usage(
    tenant: Annotated[str | None, typer.Option(help="Only this one's.", show_default=False)] = None,
    days: Annotated[float, typer.Option(min=0, help="How far back.")] = 1.0,
    module_app: AppOption = None,
    namespace: NamespaceOption = None,
    json: JsonOption = False,
) -> None:
    """Show tokens and cost by window, tenant and model: streams llm usage --tenant acme --days 30 --app shop:app."""
    aim = target(module_app, namespace)
    rows = asyncio.run(_usage(aim, int((time.time() - days * 86_400) * 1000)))
    rows = [row for row in rows if tenant is None or row.tenant == tenant]
    if json:
        print_json([_row(row) for row in rows])
        return
    out, err = consoles()
    if not rows:
        err.print(f"Nothing was used in {aim.catalogue.namespace!r} in that time.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("window from", "tenant", "model", "requests", "tokens in", "tokens out", "cost", box=None)
    for row in rows:
        table.add_row(
            clock(row.window_start_ms), escape(row.tenant or "-"), escape(row.model), f"{row.requests:,}",
            f"{row.input_tokens:,}", f"{row.output_tokens:,}", f"{row.cost:,.4f}",
        )  # fmt: skip
    out.print(table)


async def _usage(aim: Target, since_ms: int) -> list[Usage]:
    from streams.llm.usage_report import read_usage
    from streams.llm.usage_sums import window_start_ms

    async with aim.broker() as broker:
        await _need(broker, aim, "usage")
        return await read_usage(broker, aim.catalogue, window_start_ms(since_ms, aim.settings.llm.usage_window))


def _row(row: Usage) -> dict[str, Any]:
    shown = ("tenant", "model", "window_start_ms", "requests", "input_tokens", "output_tokens", "cost")
    return {name: getattr(row, name) for name in shown}


async def _reports(aim: Target) -> list[PoolReport]:
    from streams.llm.pool_reports import read_reports

    async with aim.broker() as broker:
        await _need(broker, aim, "pools")
        return await read_reports(broker, aim.catalogue, int(time.time() * 1000))


async def _need(broker: Broker, aim: Target, kind: str) -> None:
    name = aim.catalogue.name(kind)
    if name not in await broker.admin.describe([name], with_config=False):
        raise TopicError(
            f"topic {name} does not exist on {broker.address}; correct the namespace, or create it with "
            "`streams topics create MODULE:APP`"
        )


async def _changes(aim: Target) -> dict[str, Limit]:
    async with aim.broker() as broker:
        await _need(broker, aim, "limits")
        return await _read_changes(broker, aim)


async def _read_changes(broker: Broker, aim: Target) -> dict[str, Limit]:
    from streams.broker.port import Partition
    from streams.broker.table import read_to_end
    from streams.records import decode_as
    from streams.records.control import Limit

    found: dict[str, Limit] = {}
    async for batch in read_to_end(broker, [Partition(aim.catalogue.name("limits"), 0)]):
        for record in batch:
            subject = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                found.pop(subject, None)
            else:
                found[subject] = decode_as(Limit, record.value)
    return found


async def _change(aim: Target, subject: str, change: Limit | None) -> str:
    from streams.broker.port import Message
    from streams.llm.live_limits import TENANT, changes_of, check_limit
    from streams.llm.pool_reports import read_reports
    from streams.records import encode, headers

    async with aim.broker() as broker:
        await _need(broker, aim, "limits")
        earlier = (await _read_changes(broker, aim)).get(subject)
        if change is None and earlier is None:
            return "nothing was changed; limits are as configured"
        if change is not None:
            kept = changes_of(earlier) if earlier else {}
            change = check_limit(replace(change, **{**kept, **changes_of(change)}))
            await _need(broker, aim, "pools")
            here = [_plain(report) for report in await read_reports(broker, aim.catalogue, int(time.time() * 1000))]
            known = {name for report in here for name in (report["pool"], *(k["key_name"] for k in report["keys"]))}
            if known and not subject.startswith(TENANT) and subject not in known:
                raise InvalidInput(f"no dispatcher has a pool or key {subject!r}; there are {', '.join(sorted(known))}")
            unchecked = not known and not subject.startswith(TENANT)
        message = Message(
            aim.catalogue.name("limits"),
            subject.encode(),
            encode(change) if change is not None else None,
            0,
            headers.internal("limit"),
        )
        async with broker.producer() as producer:
            await producer.send(message)
    if change is None:
        return "as configured again"
    said = ", ".join(f"{name} {value:,.12g}" for name, value in changes_of(change).items())
    return f"{said} (no dispatcher reports, so whether there is such a pool or key is not known)" if unchecked else said


def _list(changes: dict[str, Limit], *, json: bool) -> None:
    from streams.llm.live_limits import changes_of

    rows: list[dict[str, Any]] = [
        {
            "subject": change.subject,
            "changes": changes_of(change),
            "by": change.changed_by,
            "reason": change.reason,
            "at_ms": change.at_ms,
        }
        for change in changes.values()
    ]
    if json:
        print_json(rows)
        return
    out, err = consoles()
    if not rows:
        err.print("No limits are changed; they are as configured.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("subject", "changed to", "by", "at", "reason", box=None)
    for row in rows:
        said = ", ".join(f"{name} {value:,.12g}" for name, value in row["changes"].items())
        table.add_row(row["subject"], said, escape(row["by"]), clock(row["at_ms"]), escape(row["reason"]))
    out.print(table)


def _plain(report: PoolReport) -> dict[str, Any]:
    import orjson

    return {
        "pool": report.pool,
        "dispatcher": report.reporter,
        "at_ms": report.at_ms,
        **orjson.loads(report.status),
    }


def _show(out: Any, pool: str, reports: list[dict[str, Any]]) -> None:
    held = sum(report["held"] for report in reports)
    waits = [report["expected_wait_s"] for report in reports]
    wait = "unknown" if None in waits else span(max(waits))
    oldest = f", the oldest for {span(max(report['oldest_s'] for report in reports))}" if held else ""
    shown = ("sent", "sent_again", "throttled", "unavailable", "interrupted")
    # A dispatcher of an earlier version does not tell all of them.
    counts = {name: sum(report["counts"].get(name, 0) for report in reports) for name in shown}
    again = f" (at most {counts['sent_again']} of them again)" if counts["sent_again"] else ""
    interrupted = f", {counts['interrupted']} interrupted" if counts["interrupted"] else ""
    out.print(
        f"[bold]{pool}[/]  {held} held{oldest}; expected wait {wait}; "
        f"{sum(report['running'] for report in reports)} running; {counts['sent']} sent{again}, "
        f"{counts['throttled']} met a 429, {counts['unavailable']} failed{interrupted}"
    )
    for report in reports:
        if report["down"]:
            out.print(f"  down at {report['dispatcher']}: {report['down']}", style="bold red", markup=False)
    for subject, change in {change["subject"]: change for report in reports for change in report["changed"]}.items():
        line = f"  limits of {subject} changed {clock(change['at_ms'])} by {change['by']}: {change['reason']}"
        out.print(line, style="yellow", markup=False)
    out.print(_keys(reports, several=len(reports) > 1))


def _keys(reports: list[dict[str, Any]], *, several: bool) -> Table:
    from rich.table import Table

    quantities = [
        quantity
        for quantity in QUANTITIES
        if any(
            bucket["quantity"] == quantity for report in reports for key in report["keys"] for bucket in key["buckets"]
        )
    ]
    table = Table("key", *(("dispatcher",) if several else ()), box=None, pad_edge=False)
    for quantity in quantities:
        table.add_column(f"{QUANTITIES[quantity]} left")
    table.add_column("calls")
    table.add_column("")
    for report in reports:
        for key in report["keys"]:
            buckets = {bucket["quantity"]: bucket for bucket in key["buckets"]}
            row = [f"  {key['key_name']}", *([report["dispatcher"]] if several else [])]
            row += [_fill(buckets.get(quantity)) for quantity in quantities]
            row.append(f"{key['running']}/{'-' if key['concurrency'] is None else key['concurrency']}")
            row.append(_away(key))
            table.add_row(*row)
    return table


def _away(key: dict[str, Any]) -> str:
    """Return why a key is not used, empty while it is."""
    if key.get("out_for_s", 0.0) > 0:  # a dispatcher of an earlier version does not tell
        return f"[red]not accepted, tried again in {span(key['out_for_s'])}[/]"
    return f"[red]cools for {span(key['cools_for_s'])}[/]" if key["cools_for_s"] > 0 else ""


def _fill(bucket: dict[str, Any] | None) -> str:
    if bucket is None:
        return "-"
    left, capacity = bucket["available"], bucket["capacity"]
    style = "red" if left <= 0 else "yellow" if left < capacity / 10 else "green"
    return f"[{style}]{left:,.0f}[/] of {capacity:,.0f} ({bucket['per_minute']:,.0f}/min)"
