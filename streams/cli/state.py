"""`streams state`: what agents remember, in the log and in Postgres; whether both agree; export and erase."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streams.cli.shown import clock, consoles, print_json
from streams.cli.target import AppOption, JsonOption, NamespaceOption, Target, target
from streams.errors import ConfigurationError, InvalidInput

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from streams.memory.agreement import Logged, Report
    from streams.memory.log_view import LogView, Span
    from streams.memory.stores import Stores
    from streams.records.state import StateDelta

VALUE_CHARS = 120
PAGE_ROWS = 2_000

Source = Literal["both", "log", "postgres"]


def check_owner(text: str) -> str:
    """Return an agent ID, or the ID of a shared record, from the command line; or say how one is written."""
    from streams.records.ids import check_part

    parts = text.split("/")
    try:
        if len(parts) != (3 if parts[0] == "shared" else 2):
            raise InvalidInput(f"{text!r} is no agent ID; write name/key, or shared/name/key for a shared record")
        for part in parts:
            check_part("part of an agent ID", part)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    return text


Owner = Annotated[
    str,
    typer.Argument(metavar="AGENT_ID", callback=check_owner, help="name/key, or shared/name/key of a shared record."),
]
RecordOption = Annotated[str, typer.Option("--record", help="Only this record, by its name.", show_default=False)]


def register(root: typer.Typer) -> None:
    """Add the group to *root*."""
    group = typer.Typer(no_args_is_help=True, help="What agents remember, in the log and in Postgres.")
    for command in (get, history, diff, verify, export, erase):
        group.command()(command)
    root.add_typer(group, name="state")


def get(
    owner: Owner,
    record: RecordOption = "",
    source: Annotated[Source, typer.Option("--from", help="both, log or postgres.")] = "both",
    app: AppOption = None,
    namespace: NamespaceOption = None,
    json: JsonOption = False,
) -> None:
    """Print the records of an agent instance: value, version, writer, and whether log and Postgres agree.

    Example: streams state get customer/c-1 --app payments:app
    """
    rows = asyncio.run(_rows(target(app, namespace), owner, record, source))
    if json:
        print_json([row.document() for row in rows])
        return
    out, _ = consoles()
    out.print(_table(owner, rows) if rows else f"{owner} has no record{f' {record!r}' if record else ''}.")


def diff(owner: Owner, app: AppOption = None, namespace: NamespaceOption = None, json: JsonOption = False) -> None:
    """Print only what differs between log and Postgres; exits with 1 where Postgres lacks what it should have."""
    from streams.memory.agreement import WRONG

    rows = asyncio.run(_rows(target(app, namespace), owner, "", "both"))
    differing = [row for row in rows if row.verdict not in ("agrees", "only in postgres")]
    if json:
        print_json([row.document() for row in differing])
    else:
        out, _ = consoles()
        out.print(_table(owner, differing) if differing else f"{owner}: log and Postgres agree.")
    if any(row.verdict in WRONG for row in differing):
        raise typer.Exit(1)


def history(
    owner: Owner,
    record: RecordOption = "",
    last: Annotated[int, typer.Option(min=1, help="How many of the latest writes.")] = 50,
    app: AppOption = None,
    namespace: NamespaceOption = None,
    json: JsonOption = False,
) -> None:
    """Print the writes to an agent instance that the log still has, oldest first; compaction keeps the last ones."""
    found = asyncio.run(_history(target(app, namespace), owner))
    writes = [each for each in found if not record or each.delta.record == record][-last:]
    if json:
        print_json([{**_document(each.delta), "offset": each.offset} for each in writes])
        return
    out, _ = consoles()
    out.print(_history_table(owner, writes) if writes else f"The log has no write to {owner} any more, or never had.")


def verify(
    app: AppOption = None,
    namespace: NamespaceOption = None,
    json: JsonOption = False,
) -> None:
    """Compare every record of the log with Postgres, in bounded memory; exits with 1 where something is wrong.

    What the sink has not written yet is counted and is not wrong.
    """
    report = asyncio.run(_verify(target(app, namespace)))
    if json:
        print_json({"records": dict(report.counts), "wrong": report.wrong, "examples": report.examples})
    else:
        out, _ = consoles()
        for verdict, count in sorted(report.counts.items()):
            out.print(f"{count:>12,}  {verdict}", markup=False)
        for example in report.examples:
            out.print(f"  {example}", style="red", markup=False)
        out.print("Log and Postgres agree." if not report.wrong else f"{report.wrong:,} records are wrong.")
    if report.wrong:
        raise typer.Exit(1)


def export(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; by default standard output.")] = None,
    app: AppOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Write every live record as a line of JSON: owner, record, value, version. What is not flushed yet comes last."""
    count = asyncio.run(_export(target(app, namespace), out))
    consoles()[1].print(f"{count:,} records{f' written to {out}' if out else ''}")


def erase(
    owner: Owner,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Kept with the order.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    app: AppOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Erase what is kept of an agent instance: state in log and Postgres, results, history.

    Says what remains elsewhere, and for how long. Refused while an invocation of it is live.
    """
    aim = target(app, namespace)
    if not yes:
        typer.confirm(f"Erase everything of {owner} in {aim.catalogue.namespace}? It cannot be undone", abort=True)
    asyncio.run(_erase(aim, owner, reason))


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A record as both have it."""

    record: str
    logged: StateDelta | None
    stored: StateDelta | None
    verdict: str

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        latest = self.logged or self.stored
        assert latest is not None
        return {**_document(latest), "log_and_postgres": self.verdict}


@asynccontextmanager
async def _reading(aim: Target) -> AsyncIterator[tuple[LogView, Stores]]:
    from streams.memory.log_view import LogView
    from streams.memory.stores import open_stores

    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(aim.broker())
        catalogue = await aim.existing(broker)
        stores = await stack.enter_async_context(open_stores(aim.settings.memory, catalogue))
        yield LogView(broker, catalogue), stores


async def _rows(aim: Target, owner: str, record: str, source: Source) -> list[Row]:
    from streams.memory.agreement import Kept, compare, digest_of

    async with _reading(aim) as (view, stores):
        found, span = await view.of_owner(owner)
        logged = {each.delta.record: each for each in found} if source != "postgres" else {}
        stored = {d.record: d for d in await stores.upkeep_of(owner).rows(owner)} if source != "log" else {}
    rows = []
    for name in sorted(logged.keys() | stored.keys()):
        if record and name != record:
            continue
        here: Logged | None = logged.get(name)
        there = stored.get(name)
        if source != "both":
            verdict = ""
        elif here is None:
            verdict = "only in postgres"  # evicted from the log, or compacted away after its deletion
        else:
            kept = Kept(there.epoch, there.sequence, digest_of(there.value)) if there else None
            verdict = compare(here, kept, span.watermark)
        rows.append(Row(name, here.delta if here else None, there, verdict))
    return rows


async def _history(aim: Target, owner: str) -> list[Logged]:
    from streams.memory.log_view import LogView

    async with aim.broker() as broker:
        return (await LogView(broker, await aim.existing(broker)).of_owner(owner))[0]


async def _verify(aim: Target) -> Report:
    from streams.memory.agreement import Report

    report = Report()
    async with _reading(aim) as (view, stores):
        spans = await view.spans()
        with _progress() as bar:
            task = bar.add_task("records", total=sum(span.end - span.begin for span in spans))
            for span in spans:
                await _verify_partition(view, stores, span, report, lambda done: bar.advance(task, done))
        return report


async def _verify_partition(view: LogView, stores: Stores, span: Span, report: Report, tell: Any) -> None:
    upkeep = stores.upkeep_of_partition(span.partition.number)
    position = span.begin
    async for batch in view.batches(span):
        if batch:
            report.take(batch, await upkeep.kept({each.name for each in batch}), span.watermark)
            tell(batch[-1].offset + 1 - position)
            position = batch[-1].offset + 1
    tell(span.end - position)


async def _export(aim: Target, out: Path | None) -> int:
    count: int = 0
    async with _reading(aim) as (view, stores):
        fresh = await view.unflushed()
        total = sum([(await store.count())["state"] for store in stores.all]) + len(fresh)
        with _progress() as bar, Lines(out) as write:
            task = bar.add_task("records", total=total)
            for store in stores.all:
                after = ("", "")
                while page := await stores.upkeep(store).page(after, PAGE_ROWS):
                    after = (page[-1].owner, page[-1].record)
                    kept = [delta for delta in page if (delta.owner, delta.record) not in fresh]
                    count += write(kept)
                    bar.advance(task, len(page))
            live = [delta for _, delta in sorted(fresh.items()) if not delta.deleted]
            count += write(live)
            bar.update(task, completed=total)
    return count


# -- erasing -----------------------------------------------------------------------------------------------------------


async def _erase(aim: Target, owner: str, reason: str) -> None:
    from streams.memory.erasure import FLUSH_S, erase_stored, remains

    out, err = consoles()
    async with aim.client() as client, _reading(aim) as (view, stores):
        told = await client.order("erase", owner, reason=reason, by=getpass.getuser())
        out.print(f"shard: {told}", markup=False)
        err.print(f"waiting for the sink to write it (at most {FLUSH_S:g} s) ...")
        records, invocations = await erase_stored(view, stores, owner)
        out.print(f"Postgres: {records} records emptied, {invocations} invocations dropped")
    for line in remains(aim.catalogue, aim.settings.memory):
        out.print(f"- {line}", markup=False)


# -- showing -----------------------------------------------------------------------------------------------------------


def _document(delta: StateDelta) -> dict[str, Any]:
    import orjson

    return {
        "owner": delta.owner,
        "record": delta.record,
        "value": None if delta.value is None else orjson.loads(delta.value),
        "deleted": delta.deleted,
        "version": delta.vector,
        "epoch": delta.epoch,
        "sequence": delta.sequence,
        "writer": delta.writer,
        "invocation": delta.invocation,
        "at_ms": delta.at_ms,
    }


def _shown(delta: StateDelta) -> str:
    if delta.value is None:
        return "(deleted)"
    text = delta.value.decode(errors="replace")
    return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 1]}…"


def _version(delta: StateDelta) -> str:
    return ", ".join(f"{writer}:{count}" for writer, count in sorted(delta.vector.items())) or "-"


def _new_table(owner: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=owner, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _table(owner: str, rows: Iterable[Row]) -> Table:
    from rich.text import Text

    table = _new_table(owner, "record", "value", "version", "written", "by", "log and Postgres")
    for row in rows:
        latest = row.logged or row.stored
        assert latest is not None
        cells = (row.record, _shown(latest), _version(latest), clock(latest.at_ms), latest.writer, row.verdict)
        table.add_row(*map(Text, cells))
    return table


def _history_table(owner: str, writes: Iterable[Logged]) -> Table:
    from rich.text import Text

    table = _new_table(owner, "written", "record", "value", "version", "by", "invocation", "offset")
    for each in writes:
        delta = each.delta
        cells = (
            clock(delta.at_ms), delta.record, _shown(delta), _version(delta), delta.writer, delta.invocation,
            str(each.offset),
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    return table


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


class Lines:
    """Writes deltas as lines of JSON, to a file or to standard output."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: Any = None

    def __enter__(self) -> Callable[[Iterable[StateDelta]], int]:
        try:
            self._file = sys.stdout.buffer if self._path is None else self._path.open("wb")
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be written: {error.strerror}") from None
        return self._write

    def _write(self, deltas: Iterable[StateDelta]) -> int:
        import orjson

        count = 0
        for delta in deltas:
            self._file.write(orjson.dumps(_document(delta), option=orjson.OPT_APPEND_NEWLINE))
            count += 1
        self._file.flush()
        return count

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()
