"""`streams dead-letters list|show|replay`: what was set aside, why, and another try for it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.shown import clock, consoles, print_json
from streams.cli.target import AppOption, JsonOption, NamespaceOption, Target, target
from streams.errors import CodecError, ConfigurationError, InvalidInput, StreamsError, UnknownName

if TYPE_CHECKING:
    from streams.records.control import DeadLetter

app = typer.Typer(
    name="dead-letters",
    help="Look at records that could not be processed, and send them again once the cause is gone.",
    no_args_is_help=True,
)

SHOWN_BYTES = 4_096

TopicOption = Annotated[
    str | None, typer.Option("--topic", help="Only those that came from this kind of topic, such as invocations.")
]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and its place on the topic, by which commands name it."""

    place: str
    record: DeadLetter


def register(root: typer.Typer) -> None:
    """Add the commands to *root*."""
    root.add_typer(app)


@app.command("list")
def list_letters(
    module_app: AppOption = None, namespace: NamespaceOption = None, topic: TopicOption = None, json: JsonOption = False
) -> None:
    """List what was set aside: where it came from, and why."""
    aim = target(module_app, namespace)
    letters = asyncio.run(_read(aim, topic))
    if json:
        print_json([_summary(letter) for letter in letters])
        return
    out, err = consoles()
    if not letters:
        err.print(f"Nothing was set aside in {aim.catalogue.namespace!r}.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("letter", "set aside", "by", "came from", "bytes", "why", box=None)
    for letter in letters:
        record = letter.record
        table.add_row(
            letter.place, clock(record.at_ms), record.set_aside_by, _origin(aim, record), str(len(record.value or b"")),
            escape(f"{record.error_type}: {record.reason}"),
        )  # fmt: skip
    out.print(table)


@app.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="As `list` names it: partition-offset.")],
    module_app: AppOption = None,
    namespace: NamespaceOption = None,
    json: JsonOption = False,
) -> None:
    """Show one of them with its key, its headers and its content."""
    (found,) = _chosen(asyncio.run(_read(target(module_app, namespace), None)), [letter])
    details = {
        **_summary(found),
        "key": _text(found.record.key),
        "headers": {name: _text(value) for name, value in found.record.headers.items()},
        "content": _content(found.record.value),
    }
    if json:
        print_json(details)
        return
    out, _ = consoles()
    for name, value in details.items():
        out.print(f"[bold]{name}[/]", end="  ")
        out.print(str(value), markup=False)


@app.command()
def replay(
    letters: Annotated[
        list[str] | None, typer.Argument(metavar="[LETTER]...", help="As `list` names them: partition-offset.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, or with --topic all from there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    module_app: AppOption = None,
    namespace: NamespaceOption = None,
    topic: TopicOption = None,
) -> None:
    """Send records again, as they were, to the topic and partition that they came from.

    The letters stay where they are. A record that is sent twice does no harm: invocations are told apart by their ID,
    step results by their step.
    """
    if everything == bool(letters):
        raise ConfigurationError("name the letters to send again, or say --all; `streams dead-letters list` has them")
    aim = target(module_app, namespace)
    out, err = consoles()
    refused = 0
    for letter, problem in asyncio.run(_replay(aim, topic, letters or None, dry_run=dry_run)):
        if problem:
            refused += 1
            err.print(f"{letter.place}: {problem}", style="red", markup=False)
        else:
            done = "would go" if dry_run else "was sent again"
            out.print(f"{letter.place}: {done} to {letter.record.topic}[{letter.record.partition}]", markup=False)
    if refused:
        raise typer.Exit(1)


async def _read(aim: Target, topic: str | None) -> list[Letter]:
    from streams.cli.tail import records
    from streams.records import decode_as
    from streams.records.control import DeadLetter

    wanted = _full_name(aim, topic)
    letters = []
    async with aim.broker() as broker:
        place = aim.catalogue.name("dead-letters")
        async with aclosing(records(broker, place, from_beginning=True, follow=False)) as batches:
            async for batch in batches:
                for record in batch:
                    name = f"{record.partition}-{record.offset}"
                    try:
                        letter = Letter(name, decode_as(DeadLetter, record.value or b""))
                    except CodecError as error:
                        consoles()[1].print(f"letter {name} is left out: {error}", style="red", markup=False)
                        continue
                    if wanted is None or letter.record.topic == wanted:
                        letters.append(letter)
    return sorted(letters, key=lambda letter: letter.record.at_ms)


async def _replay(
    aim: Target, topic: str | None, names: list[str] | None, *, dry_run: bool
) -> list[tuple[Letter, str]]:
    from streams.broker.port import Message

    chosen = await _read(aim, topic)
    if names is not None:
        chosen = _chosen(chosen, names)
    outcome = []
    async with aim.broker() as broker, broker.producer() as producer:
        there = await broker.admin.describe({letter.record.topic for letter in chosen}, with_config=False)
        counts = {name: spec.partitions for name, spec in there.items()}
        for letter in chosen:
            record = letter.record
            problem = problem_with(aim, record, counts)
            if not problem and not dry_run:
                message = Message(
                    record.topic, record.key, record.value, record.partition, tuple(record.headers.items())
                )
                try:
                    await producer.send(message)
                except StreamsError as error:
                    problem = str(error)
            outcome.append((letter, problem))
    return outcome


def problem_with(aim: Target, record: DeadLetter, partitions: dict[str, int]) -> str:
    """Return why a record must not be sent again; empty where nothing speaks against it.

    Args:
        partitions: Of the topics that exist, by name.
    """
    plan = next((plan for plan in aim.catalogue.topics() if plan.name == record.topic), None)
    if plan is None:
        return f"{record.topic} is not a topic of {aim.catalogue.namespace!r}; name its namespace, or the app for lanes"
    if plan.kind.retention != "work":
        return f"{record.topic} is a record of what happened, where an old value must not come after a newer one"
    if record.partition >= partitions.get(record.topic, 0):
        return f"{record.topic} has no partition {record.partition}; create the topic first"
    if record.value is None:
        return "its bytes were not kept"
    return ""


def _chosen(letters: list[Letter], names: list[str]) -> list[Letter]:
    by_place = {letter.place: letter for letter in letters}
    for name in names:
        if name not in by_place:
            raise InvalidInput(f"there is no letter {name!r}; `streams dead-letters list` has those that there are")
    return [by_place[name] for name in names]


def _full_name(aim: Target, kind: str | None) -> str | None:
    if kind is None:
        return None
    full = kind if kind.startswith(f"{aim.catalogue.namespace}.") else f"{aim.catalogue.namespace}.{kind}"
    names = [plan.name for plan in aim.catalogue.topics()]
    if full not in names:
        raise UnknownName(f"{kind!r} is not a topic of {aim.catalogue.namespace!r}; it has {', '.join(names)}")
    return full


def _summary(letter: Letter) -> dict[str, Any]:
    record = letter.record
    return {
        "letter": letter.place,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "at": clock(record.at_ms),
        "at_ms": record.at_ms,
        "set_aside_by": record.set_aside_by,
        "error_type": record.error_type,
        "reason": record.reason,
        "bytes": len(record.value or b""),
    }


def _origin(aim: Target, record: DeadLetter) -> str:
    kind = record.topic.removeprefix(f"{aim.catalogue.namespace}.")
    return f"{kind}[{record.partition}]@{record.offset}"


def _content(value: bytes | None) -> str:
    """Return the bytes as the record that they are, else as text, else as hexadecimal digits."""
    from streams.records import decode

    if value is None:
        return "nothing"
    try:
        return repr(decode(value))
    except StreamsError:
        return _text(value[:SHOWN_BYTES]) or ""


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
