"""The migrations of the namespace's tables: plain SQL files, applied in order, each once, and checked at start.

Each file of `schema/` is `<number>_<name>.sql`. What was applied is in the table `schema_versions`. A database that is
ahead of this code is refused, since its tables may mean something that this code does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

from streams.errors import StoreError
from streams.memory.postgres import Postgres

_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_versions (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `schema/`."""

    version: int
    name: str
    statements: str


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the namespace's databases this is: number *number*, from 0, of *of*."""

    number: int
    of: int


ONLY = Place(0, 1)


def migrations() -> tuple[Migration, ...]:
    """Return the migrations that this version of the code knows, in order."""
    files = (resources.files("streams.memory") / "schema").iterdir()
    found = []
    for file in files:
        stem, dot, kind = file.name.rpartition(".")
        number, _, name = stem.partition("_")
        if dot and kind == "sql":
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.version))


async def migrate(postgres: Postgres, place: Place = ONLY) -> tuple[Migration, ...]:
    """Apply what is missing; return what was applied. Several processes may do so at once.

    Args:
        place: Kept with the first migration, and compared from then on.

    Raises:
        StoreError: The database is of a newer version, or a right is missing.
        StoreUnavailable: Postgres is away.
    """
    async with postgres.transaction("migrating") as connection:
        # Held until the transaction ends, so that one of several starting processes does the work.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('agent-streams ' || %s))", [postgres.namespace])
        await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(postgres.namespace)))
        await connection.execute(_VERSIONS)
        missing = _missing(await _applied(connection), postgres)
        for migration in missing:
            # Files of ours, with several statements each.
            await connection.execute(migration.statements.encode())
            await connection.execute(
                "INSERT INTO schema_versions (version, name) VALUES (%s, %s)", [migration.version, migration.name]
            )
        await connection.execute(
            "INSERT INTO place (number, databases) SELECT %s, %s WHERE NOT EXISTS (SELECT FROM place)",
            [place.number, place.of],
        )
        await _check_place(connection, postgres, place)
    return missing


async def check(postgres: Postgres, place: Place = ONLY) -> None:
    """Check that the tables are those that this code knows.

    Raises:
        StoreError: Migrations are missing, or the database is of a newer version.
        StoreUnavailable: Postgres is away.
    """
    async with postgres.transaction("checking the schema") as connection:
        found = await connection.execute("SELECT to_regclass('schema_versions') IS NOT NULL")
        row = await found.fetchone()
        applied = await _applied(connection) if row is not None and row[0] else frozenset()
        if not _missing(applied, postgres):
            await _check_place(connection, postgres, place)
    if missing := _missing(applied, postgres):
        names = ", ".join(f"{m.version:04d}_{m.name}" for m in missing)
        raise StoreError(
            f"schema {postgres.namespace!r} of Postgres at {postgres.address} lacks {names}; "
            "run `streams memory migrate`"
        )


async def _check_place(connection: psycopg.AsyncConnection[Any], postgres: Postgres, place: Place) -> None:
    found = await (await connection.execute("SELECT number, databases FROM place")).fetchone()
    if found is not None and Place(*found) != place:
        raise StoreError(
            f"schema {postgres.namespace!r} of Postgres at {postgres.address} is number {found[0]} of {found[1]} "
            f"databases, and the settings have it as number {place.number} of {place.of}; put memory.dsns back as they "
            "were, since shards are divided among them for good"
        )


async def _applied(connection: psycopg.AsyncConnection[Any]) -> frozenset[int]:
    found = await connection.execute("SELECT version FROM schema_versions")
    return frozenset([row[0] for row in await found.fetchall()])


def _missing(applied: frozenset[int], postgres: Postgres) -> tuple[Migration, ...]:
    known = migrations()
    newest = known[-1].version
    if applied and max(applied) > newest:
        raise StoreError(
            f"schema {postgres.namespace!r} of Postgres at {postgres.address} is of version {max(applied)}, this code "
            f"knows up to {newest}; deploy the version that migrated it"
        )
    return tuple(migration for migration in known if migration.version not in applied)
