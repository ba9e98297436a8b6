"""`streams topics list|create|check|acls`: the topics of an application on its Kafka."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.shown import consoles, print_json
from streams.cli.target import AppArgument, JsonOption, NamespaceOption, Target, target

if TYPE_CHECKING:
    from streams.broker.topics import Difference

app = typer.Typer(
    name="topics",
    help="Create, list and check the topics of an application, and print the grants that its roles need.",
    no_args_is_help=True,
)

Partitions = Annotated[
    int | None, typer.Option(min=1, help="Shards; STREAMS_PARTITIONS by default. Chosen for good.", show_default=False)
]
Replication = Annotated[
    int | None,
    typer.Option(min=1, help="Replicas; STREAMS_REPLICATION by default, 3 on a cluster.", show_default=False),
]


def register(root: typer.Typer) -> None:
    """Add the commands to *root*."""
    root.add_typer(app)


@app.command("list")
def list_topics(module_app: AppArgument = None, namespace: NamespaceOption = None, json: JsonOption = False) -> None:
    """List the topics and how much is in them; --json also says who writes and who reads them."""
    rows = asyncio.run(_list(target(module_app, namespace)))
    if json:
        print_json(rows)
        return
    from rich.table import Column, Table

    table = Table(Column("topic", min_width=max(len(row["topic"]) for row in rows)), box=None)
    for heading in ("partitions", "records", "kept", "key"):
        table.add_column(heading)
    for row in rows:
        there = "[red]missing[/]" if row["partitions"] is None else str(row["partitions"])
        table.add_row(row["topic"], there, str(row["records"]), _kept(row), row["key"])
    consoles()[0].print(table)


@app.command()
def create(
    module_app: AppArgument = None,
    namespace: NamespaceOption = None,
    partitions: Partitions = None,
    replication: Replication = None,
) -> None:
    """Create the topics that are missing. The number of partitions is for good."""
    from streams.broker.topics import create_namespace, partitions_notice

    aim = target(module_app, namespace, partitions=partitions, replication=replication)
    out, err = consoles()

    async def run() -> tuple[str, ...]:
        async with aim.broker() as broker:
            with err.status(f"Creating the topics of {aim.catalogue.namespace!r} on {broker.address}"):
                return await create_namespace(broker.admin, aim.catalogue, aim.settings.replication)

    created = asyncio.run(run())
    for name in created:
        out.print(f"created {name}", markup=False)
    if not created:
        out.print(f"All topics of {aim.catalogue.namespace!r} are there.")
    err.print(partitions_notice(aim.catalogue), style="bold yellow", markup=False)


@app.command()
def check(
    module_app: AppArgument = None,
    namespace: NamespaceOption = None,
    replication: Replication = None,
    json: JsonOption = False,
) -> None:
    """Name every difference between the topics and what the application needs; exits with 1 if there is one."""
    from streams.broker.topics import differences

    aim = target(module_app, namespace, replication=replication)

    async def run() -> list[Difference]:
        async with aim.broker() as broker:
            return await differences(broker.admin, aim.catalogue, aim.settings.replication)

    found = asyncio.run(run())
    if json:
        print_json(
            [{"topic": d.topic, "aspect": d.aspect, "wanted": d.wanted, "found": d.found, "way_out": d.way_out}
             for d in found]
        )  # fmt: skip
    else:
        out, _ = consoles()
        for way_out, several in groupby(found, key=lambda difference: difference.way_out):
            for difference in several:
                out.print(str(difference), style="red", markup=False)
            out.print(f"    {way_out}", style="dim", markup=False)
        topics = len(list(aim.catalogue.topics()))
        verdict = f"{len(found)} differences" if found else "no difference"
        out.print(f"{topics} topics of {aim.catalogue.namespace!r}: {verdict}.", markup=False)
    if found:
        raise typer.Exit(1)


@app.command()
def acls(module_app: AppArgument = None, namespace: NamespaceOption = None, json: JsonOption = False) -> None:
    """Print the grants that each role needs, as lines for kafka-acls.sh. Connects to nothing.

    Each role has a principal of its own, User:NAMESPACE-ROLE.
    """
    from dataclasses import asdict

    from streams.broker import acls as grants

    aim = target(module_app, namespace)
    needed = grants.acls(aim.catalogue)
    if json:
        print_json([asdict(grant) for grant in needed])
    else:
        print(grants.render(needed, aim.settings.kafka.bootstrap_servers))


async def _list(aim: Target) -> list[dict[str, Any]]:
    from streams.broker.port import Partition

    async with aim.broker() as broker:
        plans = {plan.name: plan for plan in aim.catalogue.topics()}
        prefix = f"{aim.catalogue.namespace}."
        others = [name for name in await broker.admin.list_topics() if name.startswith(prefix) and name not in plans]
        found = await broker.admin.describe([*plans, *sorted(others)])
        places = [Partition(spec.name, number) for spec in found.values() for number in range(spec.partitions)]
        begin = await broker.admin.begin_offsets(places)
        end = await broker.admin.end_offsets(places)
    records: dict[str, int] = {}
    for place in places:
        records[place.topic] = records.get(place.topic, 0) + end[place] - begin[place]
    rows = []
    for name in [*plans, *sorted(others)]:
        spec, plan = found.get(name), plans.get(name)
        config = spec.config if spec else plan.config if plan else {}
        rows.append(
            {
                "topic": name,
                "partitions": spec.partitions if spec else None,
                "records": records.get(name, 0),
                "cleanup": config.get("cleanup.policy", ""),
                "retention_ms": int(config.get("retention.ms", -1)),
                "key": plan.kind.key if plan else "not in the catalogue",
                "written_by": list(plan.kind.written_by) if plan else [],
                "read_by": list(plan.kind.read_by) if plan else [],
            }
        )
    return rows


def _kept(row: dict[str, Any]) -> str:
    if "compact" in row["cleanup"]:
        return "latest of a key"
    hours = row["retention_ms"] / 3_600_000
    if hours < 0:
        return "until consumed"
    return f"{hours:g} h" if hours < 48 else f"{hours / 24:g} d"
