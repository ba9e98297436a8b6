"""The databases of a namespace: one, or several among which its shards are divided for good.

Shard *p* belongs to database *p mod n*. Each database is told its place when it is migrated, so that a changed order or
number is refused instead of being read as "nothing there".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from streams.broker.partitioning import partition_for
from streams.memory.migrate import Place
from streams.memory.settings import MemorySettings
from streams.memory.store import PostgresStore
from streams.memory.upkeep import Upkeep
from streams.records.topics import Catalogue


class Stores:
    """Stores by shard.

    Attributes:
        all: One for each connection string of the settings.
    """

    def __init__(self, settings: MemorySettings, catalogue: Catalogue) -> None:
        self._partitions = catalogue.partitions
        each = settings.each()
        self.all = tuple(
            PostgresStore(one, catalogue.namespace, Place(number, len(each))) for number, one in enumerate(each)
        )

    def of_partition(self, number: int) -> PostgresStore:
        """Return the store of a shard."""
        return self.all[number % len(self.all)]

    def of(self, owner: str) -> PostgresStore:
        """Return the store of an agent instance or shared record."""
        return self.of_partition(partition_for(owner.encode(), self._partitions))

    def upkeep(self, store: PostgresStore) -> Upkeep:
        """Return what housekeeping does to a store."""
        return Upkeep(store.postgres)

    def upkeep_of(self, owner: str) -> Upkeep:
        """Return the housekeeping of an owner's store."""
        return self.upkeep(self.of(owner))

    def upkeep_of_partition(self, number: int) -> Upkeep:
        """Return the housekeeping of a shard's store."""
        return self.upkeep(self.of_partition(number))


@asynccontextmanager
async def open_stores(settings: MemorySettings, catalogue: Catalogue) -> AsyncIterator[Stores]:
    """Connect to all databases.

    Raises:
        StoreUnavailable: One does not answer; names address and setting.
    """
    stores = Stores(settings, catalogue)
    async with AsyncExitStack() as stack:
        for store in stores.all:
            await stack.enter_async_context(store)
        yield stores
