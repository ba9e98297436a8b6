"""`streams memory`: the tables of agents' memory in Postgres."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from streams.cli.shown import consoles
from streams.cli.target import AppOption, NamespaceOption, Target, target


def register(root: typer.Typer) -> None:
    """Add the group to *root*."""
    group = typer.Typer(no_args_is_help=True, help="The tables of agents' memory in Postgres.")
    group.command()(migrate)
    root.add_typer(group, name="memory")


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 where something is missing.")
    ] = False,
    app: AppOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Create or update the tables, in each database of the settings; several may do so at once.

    Example: STREAMS_MEMORY__MIGRATE_AT_START=false keeps roles from doing it themselves.
    """
    asyncio.run(_migrate(target(app, namespace), check))


async def _migrate(aim: Target, check: bool) -> None:
    from streams.memory.stores import open_stores

    out, _ = consoles()
    async with aim.broker() as broker:
        catalogue = await aim.existing(broker)
    async with open_stores(aim.settings.memory, catalogue) as stores:
        for store in stores.all:
            if check:
                await store.check()
                out.print(f"{store.address}: up to date", markup=False)
                continue
            applied = await store.migrate()
            names = ", ".join(f"{one.version:04d}_{one.name}" for one in applied) or "nothing to do"
            out.print(f"{store.address}: {names}", markup=False)
