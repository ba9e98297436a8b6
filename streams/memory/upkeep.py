"""What operators and housekeeping do to the namespace's tables: look, compare, erase, and drop what is too old.

Everything works in pages or bounded batches, each a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from streams.memory.agreement import Kept, digest_of
from streams.memory.postgres import Postgres
from streams.memory.tables import STATE, state_of
from streams.records.codec import open_value, sealing
from streams.records.state import StateDelta

_VALUE = {True: "value", False: "md5(value)"}

_DROP_INVOCATIONS = """
DELETE FROM invocations WHERE (owner, id) IN (
    SELECT owner, id FROM invocations WHERE finished_at < %s ORDER BY finished_at LIMIT %s FOR UPDATE SKIP LOCKED
)
"""
_DROP_DELETED = """
DELETE FROM state WHERE (owner, record) IN (
    SELECT owner, record FROM state WHERE deleted AND updated_at < %s LIMIT %s FOR UPDATE SKIP LOCKED
)
"""
# The rows stay, without what they held: a writer that comes late must still meet their version.
_ERASE_STATE = """
UPDATE state SET value = NULL, deleted = true, invocation = '', updated_at = now()
WHERE owner = %s AND (value IS NOT NULL OR NOT deleted)
"""


class Upkeep:
    """Housekeeping of one namespace in one database.

    All methods raise `StoreUnavailable` when Postgres is away or silent.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def kept(self, records: Collection[tuple[str, str]]) -> dict[tuple[str, str], Kept]:
        """Return version and digest of those of *records* (owner and name) that exist."""
        owners, names = [owner for owner, _ in records], [name for _, name in records]
        async with self._postgres.transaction("comparing state") as connection:
            await connection.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
            # What is sealed looks another way each time: only here it can be told whether it is the same.
            sealed = sealing()
            found = await connection.execute(
                f"SELECT owner, record, epoch, sequence, CASE WHEN deleted THEN NULL ELSE {_VALUE[sealed]} END "
                "FROM state WHERE (owner, record) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
                [owners, names],
            )
            rows = await found.fetchall()
        return {
            (row[0], row[1]): Kept(row[2], row[3], digest_of(open_value(row[4], "state")) if sealed else row[4])
            for row in rows
        }

    async def rows(self, owner: str) -> list[StateDelta]:
        """Return all records of an owner, deleted ones too, by name."""
        async with self._postgres.transaction("reading state") as connection:
            found = await connection.execute(STATE.select("owner = %s ORDER BY record"), [owner])
            return [state_of(row) for row in await found.fetchall()]

    async def page(self, after: tuple[str, str], size: int) -> list[StateDelta]:
        """Return up to *size* live records after a key, by owner and name; an empty page is the end."""
        async with self._postgres.transaction("exporting state") as connection:
            found = await connection.execute(
                STATE.select("(owner, record) > (%s, %s) AND NOT deleted ORDER BY owner, record LIMIT %s"),
                [*after, size],
            )
            return [state_of(row) for row in await found.fetchall()]

    async def erase(self, owner: str) -> tuple[int, int]:
        """Take the values out of an owner's records, and drop its history; return how many of each."""
        async with self._postgres.transaction("erasing") as connection:
            records = await connection.execute(_ERASE_STATE, [owner])
            history = await connection.execute("DELETE FROM invocations WHERE owner = %s", [owner])
            return records.rowcount, history.rowcount

    async def drop_invocations(self, before_s: float, most: int) -> int:
        """Drop up to *most* invocations that finished before a time (seconds since the epoch); return how many."""
        return await self._drop(_DROP_INVOCATIONS, before_s, most)

    async def drop_deleted(self, before_s: float, most: int) -> int:
        """Drop up to *most* records that were deleted before a time; return how many."""
        return await self._drop(_DROP_DELETED, before_s, most)

    async def _drop(self, statement: str, before_s: float, most: int) -> int:
        async with self._postgres.transaction("dropping what is too old") as connection:
            dropped = await connection.execute(statement.encode(), [datetime.fromtimestamp(before_s, UTC), most])
            return dropped.rowcount
