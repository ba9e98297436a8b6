"""Reading evicted state back for shards: a store that is opened when first needed, so that shards start without it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from streams.errors import StoreError
from streams.memory.migrate import ONLY, Place
from streams.memory.settings import MemorySettings
from streams.memory.store import PostgresStore
from streams.records.state import StateDelta


class PostgresSource:
    """What `streams.shards.cold_reads` reads from (its `StateSource`).

    Methods raise `StoreUnavailable` while Postgres is away or its tables are not there yet, `StoreError` otherwise.
    """

    def __init__(self, settings: MemorySettings, namespace: str, place: Place = ONLY) -> None:
        self._store = PostgresStore(settings, namespace, place)
        self._opening = asyncio.Lock()
        self._open = False
        self._closed = False

    async def read_owners(self, owners: Collection[str]) -> list[StateDelta]:
        """Return all records of *owners*, deleted ones too."""
        return await (await self._opened()).read_owners(owners)

    async def versions(self, records: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        """Return (epoch, sequence) of those of *records* (owner and name) that exist."""
        return await (await self._opened()).versions(records)

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        if self._open:
            await self._store.__aexit__()

    async def _opened(self) -> PostgresStore:
        async with self._opening:
            if self._closed:
                raise StoreError("reading state was ended: this process is shutting down")
            if not self._open:
                await self._store.__aenter__()
                self._open = True
        return self._store


def sources(settings: MemorySettings, namespace: str) -> tuple[PostgresSource, ...]:
    """Return a source for each database."""
    each = settings.each()
    return tuple(PostgresSource(one, namespace, Place(number, len(each))) for number, one in enumerate(each))
