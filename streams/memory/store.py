"""What the namespace's tables can be asked and told: guarded bulk writes, batched reads.

Owns its connections. Which rows to write, when, and what to do when Postgres is away is the sink's business.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Self

import psycopg

from streams.memory.migrate import ONLY, Migration, Place, check, migrate
from streams.memory.postgres import Postgres
from streams.memory.settings import MemorySettings
from streams.memory.tables import INVOCATIONS, STATE, Table, result_of, state_of
from streams.records.ids import agent_of, split_invocation_id
from streams.records.invocations import Result
from streams.records.state import StateDelta

# A batch is small against the table: rows are found by the index, whatever an unanalysed table makes the planner think.
_BY_INDEX = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"

_NAMED = "(owner, record) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"


class PostgresStore:
    """Tables of one namespace. Every call is bounded in time.

    All methods raise `StoreUnavailable` (naming address and setting) when Postgres is away or silent; writes also
    `Contended` and `RowRefused` (see `streams.memory.refusals`), and then nothing of that call was written.
    """

    def __init__(self, settings: MemorySettings, namespace: str, place: Place = ONLY) -> None:
        self._postgres = Postgres(settings, namespace)
        self._place = place

    async def __aenter__(self) -> Self:
        await self._postgres.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._postgres.close()

    @property
    def postgres(self) -> Postgres:
        """Its connections, for housekeeping."""
        return self._postgres

    @property
    def address(self) -> str:
        """Where Postgres is, without its password."""
        return self._postgres.address

    async def migrate(self) -> tuple[Migration, ...]:
        """Apply missing migrations (see `streams.memory.migrate`)."""
        return await migrate(self._postgres, self._place)

    async def check(self) -> None:
        """Check that the tables are those that this code knows."""
        await check(self._postgres, self._place)

    async def write_state(self, deltas: Sequence[StateDelta]) -> int:
        """Write *deltas*, at most one for each record; return how many changed a row.

        A delta that is not newer, by (epoch, sequence), than what is there changes nothing, deletes included.
        """
        return await self._write(STATE, deltas)

    async def write_invocations(self, results: Sequence[Result]) -> int:
        """Write *results*, at most one for each invocation; return how many changed a row. The later finish wins."""
        return await self._write(INVOCATIONS, results)

    async def read_state(self, owners: Collection[str]) -> dict[str, tuple[StateDelta, ...]]:
        """Return the live records of each of *owners*; an owner without any is left out."""
        async with self._postgres.transaction("reading state") as connection:
            found = await connection.execute(
                STATE.select("owner = ANY(%s) AND NOT deleted ORDER BY owner, record"), [list(owners)]
            )
            rows = await found.fetchall()
        records: dict[str, list[StateDelta]] = {}
        for row in rows:
            records.setdefault(row[0], []).append(state_of(row))
        return {owner: tuple(deltas) for owner, deltas in records.items()}

    async def read_owners(self, owners: Collection[str]) -> list[StateDelta]:
        """Return all records of *owners*, deleted ones too."""
        async with self._postgres.transaction("reading state") as connection:
            rows = await connection.execute(STATE.select("owner = ANY(%s)"), [list(owners)])
            return [state_of(row) for row in await rows.fetchall()]

    async def versions(self, records: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        """Return (epoch, sequence) of those of *records* (owner and name) that exist."""
        async with self._postgres.transaction("comparing state") as connection:
            await connection.execute(_BY_INDEX)
            rows = await connection.execute(
                f"SELECT owner, record, epoch, sequence FROM state WHERE {_NAMED}", _columns(records)
            )
            return {(row[0], row[1]): (row[2], row[3]) for row in await rows.fetchall()}

    async def read_invocation(self, invocation_id: str) -> Result | None:
        """Return how an invocation ended, None when it is not known here (yet).

        Raises:
            InvalidInput: *invocation_id* is not an invocation ID.
        """
        split_invocation_id(invocation_id)
        async with self._postgres.transaction("reading an invocation") as connection:
            found = await connection.execute(
                INVOCATIONS.select("owner = %s AND id = %s"), [agent_of(invocation_id), invocation_id]
            )
            row = await found.fetchone()
        return result_of(row) if row is not None else None

    async def count(self) -> dict[str, int]:
        """Return the number of rows: `state`, `deleted` (of those), `invocations`. Reads the tables whole."""
        async with self._postgres.transaction("counting") as connection:
            found = await connection.execute(
                "SELECT count(*), count(*) FILTER (WHERE deleted), (SELECT count(*) FROM invocations) FROM state"
            )
            row = await found.fetchone()
        state, deleted, invocations = row or (0, 0, 0)
        return {"state": state, "deleted": deleted, "invocations": invocations}

    async def _write(self, table: Table[Any], records: Sequence[Any]) -> int:
        if not records:
            return 0
        async with self._postgres.transaction(f"writing {table.name}") as connection:
            await connection.execute(table.staging)
            await _copy(connection, table, records)
            await connection.execute(_BY_INDEX)
            merged = await connection.execute(table.merge)
            return merged.rowcount


async def _copy(connection: psycopg.AsyncConnection[Any], table: Table[Any], records: Sequence[Any]) -> None:
    async with connection.cursor().copy(table.copy) as copy:
        copy.set_types(table.types)
        for record in records:
            await copy.write_row(table.row(record))


def _columns(records: Collection[tuple[str, str]]) -> list[list[str]]:
    return [[owner for owner, _ in records], [record for _, record in records]]
