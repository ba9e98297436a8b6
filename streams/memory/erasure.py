"""Erasing an owner from Postgres once its shard has erased it from the log; and what is still kept elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from streams.errors import StoreUnavailable
from streams.memory.log_view import LogView
from streams.memory.settings import MemorySettings
from streams.memory.stores import Stores
from streams.records.topics import Catalogue

FLUSH_S = 60.0
_POLL_S = 0.2


async def erase_stored(view: LogView, stores: Stores, owner: str) -> tuple[int, int]:
    """Wait until the sink has written what the shard has erased, then empty what else there is of *owner*.

    Returns:
        Records that were emptied here, and invocations that were dropped.

    Raises:
        StoreUnavailable: Postgres is away, or the sink has not come so far within a minute.
    """
    _, wanted = await view.of_owner(owner)
    number = wanted.partition.number
    try:
        async with asyncio.timeout(FLUSH_S):
            while (await view.spans())[number].watermark < wanted.end:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise StoreUnavailable(
            f"the sink has not written partition {number} up to offset {wanted.end} within {FLUSH_S:g} s; run the role "
            "`memory`, and erase again: what is done stays done"
        ) from None
    return await stores.upkeep_of(owner).erase(owner)


def remains(catalogue: Catalogue, settings: MemorySettings) -> Iterator[str]:
    """Yield, in words, what is still kept of an erased owner, and until when."""
    eager = next(plan.config for plan in catalogue.topics() if plan.kind.name == "state-deltas")
    compaction_s = int(eager["max.compaction.lag.ms"]) / 1000
    days = catalogue.history_s / 86_400
    yield (
        f"older values stay in segments of {catalogue.name('state-deltas')} and {catalogue.name('journal')} until "
        f"Kafka compacts them: about {compaction_s:g} s after a segment is closed, at rest once more is written"
    )
    yield (
        f"invocations, calls and results stay in {catalogue.name('invocations')}, {catalogue.name('tool-calls')}, "
        f"{catalogue.name('results')} and their like for {days:g} days (history)"
    )
    yield f"records set aside stay in {catalogue.name('dead-letters')} until their retention ends"
    yield (
        f"emptied rows stay in Postgres, as names and versions, for {settings.deleted_days:g} days; backups as long "
        "as you keep them"
    )
