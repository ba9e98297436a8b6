"""Old rows are dropped in bounded batches; a store that is away is asked again later."""

import asyncio

from streams.errors import StoreUnavailable
from streams.memory.retention import RetentionCounts, retain, retain_for_ever
from streams.memory.settings import MemorySettings
from streams.testing.virtual_time import run

DAY = 86_400.0


class Tables:
    def __init__(self, invocations=0, deleted=0):
        self.left = {"invocations": invocations, "deleted": deleted}
        self.asked = []
        self.away = False

    async def _drop(self, kind, before_s, most):
        if self.away:
            raise StoreUnavailable("away")
        self.asked.append((kind, before_s, most))
        dropped = min(most, self.left[kind])
        self.left[kind] -= dropped
        return dropped

    async def drop_invocations(self, before_s, most):
        return await self._drop("invocations", before_s, most)

    async def drop_deleted(self, before_s, most):
        return await self._drop("deleted", before_s, most)


def test_everything_that_is_too_old_goes_in_batches():
    tables, counts = Tables(2_500, 10), RetentionCounts()
    settings = MemorySettings(history_days=30, deleted_days=2, retention_rows=1_000)
    run(retain(tables, settings, counts, 100 * DAY))
    assert [kind for kind, _, _ in tables.asked] == ["invocations"] * 3 + ["deleted"]
    assert {(kind, before) for kind, before, _ in tables.asked} == {("invocations", 70 * DAY), ("deleted", 98 * DAY)}
    assert (counts.invocations, counts.deleted) == (2_500, 10)


def test_while_the_store_is_away_it_is_asked_again_later():
    async def body():
        tables, counts = Tables(5), RetentionCounts()
        tables.away = True
        task = asyncio.create_task(
            retain_for_ever(tables, MemorySettings(retention_interval_s=60), counts, lambda: 1_000 * DAY)
        )
        await asyncio.sleep(90)
        before = counts.invocations
        tables.away = False
        await asyncio.sleep(60)
        task.cancel()
        return before, counts.invocations

    assert run(body()) == (0, 5)
