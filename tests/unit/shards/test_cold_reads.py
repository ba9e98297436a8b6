"""Reading evicted state: many misses in one query, and what happens while the store is away."""

import asyncio
from collections.abc import Collection
from random import Random

import pytest

from streams.breakers import BreakerPolicy, Guard
from streams.errors import StoreUnavailable
from streams.records.state import StateDelta
from streams.shards.cold import Miss
from streams.shards.cold_reads import Ask, ColdReads
from streams.testing.virtual_time import run


class Source:
    """A store with one record for each owner."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.away = False
        self.takes_s = 0.001
        self.sequence = 5

    async def read_owners(self, owners: Collection[str]) -> list[StateDelta]:
        self.queries.append(list(owners))
        await asyncio.sleep(self.takes_s)
        if self.away:
            raise StoreUnavailable("Postgres at db is not available")
        return [StateDelta(owner, "note", b"1", 1, self.sequence, owner, 0) for owner in owners]

    async def versions(self, records: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        return dict.fromkeys(records, (1, self.sequence))

    async def close(self) -> None: ...


class Desk:
    """Asks, and takes what comes."""

    def __init__(self, *, batch: int = 100) -> None:
        loop = asyncio.get_running_loop()
        self.source = Source()
        self.guard = Guard("postgres", BreakerPolicy(window_calls=10, minimum_calls=3), "test", lambda: 0.5)
        self.reads = ColdReads(
            self.source, self.guard, linger_s=0.002, batch=batch, now_ms=lambda: int(loop.time() * 1000),
            clock=loop.time, luck=Random(1).random,
        )  # fmt: skip
        self.came: dict[str, float] = {}
        self.unwanted: set[str] = set()
        self.stale = 0

    def ask(self, owner: str, at_least: int = 0) -> None:
        self.reads.ask(
            Ask(Miss(owner, {"note": at_least}), lambda o: o not in self.unwanted, self._deliver, self._stale)
        )

    def _deliver(self, owner: str, deltas: tuple[StateDelta, ...]) -> None:
        assert [delta.owner for delta in deltas] == [owner]
        self.came[owner] = asyncio.get_running_loop().time()

    def _stale(self) -> None:
        self.stale += 1


def test_misses_of_some_milliseconds_are_one_query():
    async def scenario() -> None:
        desk = Desk()
        task = asyncio.create_task(desk.reads.run())
        for number in range(50):
            desk.ask(f"a/{number}")
        await asyncio.sleep(0.001)
        desk.ask("a/50")
        await asyncio.sleep(0.1)
        assert [len(query) for query in desk.source.queries] == [51]
        assert len(desk.came) == 51
        task.cancel()

    run(scenario())


def test_a_query_is_bounded_and_a_slow_one_does_not_hold_up_the_next():
    async def scenario() -> None:
        desk = Desk(batch=10)
        desk.source.takes_s = 1.0
        task = asyncio.create_task(desk.reads.run())
        for number in range(25):
            desk.ask(f"a/{number}")
        await asyncio.sleep(0.5)
        assert [len(query) for query in desk.source.queries] == [10, 10]
        await asyncio.sleep(2.0)
        assert [len(query) for query in desk.source.queries] == [10, 10, 5]
        assert len(desk.came) == 25
        task.cancel()

    run(scenario())


def test_an_outage_is_waited_for_at_the_breakers_pace_and_told():
    async def scenario() -> None:
        desk = Desk()
        desk.source.away = True
        task = asyncio.create_task(desk.reads.run())
        desk.ask("a/1")
        await asyncio.sleep(4.0)
        assert desk.came == {}
        assert "not available" in desk.reads.trouble or "breaker on postgres is open" in desk.reads.trouble
        assert desk.guard.phase == "open"
        asked = len(desk.source.queries)
        assert asked <= 4
        desk.source.away = False
        await asyncio.sleep(10.0)
        assert list(desk.came) == ["a/1"]
        assert desk.reads.trouble == ""
        task.cancel()

    run(scenario())


def test_what_nobody_wants_any_more_is_not_read():
    async def scenario() -> None:
        desk = Desk()
        desk.source.away = True
        task = asyncio.create_task(desk.reads.run())
        desk.ask("a/1")
        desk.ask("a/2")
        await asyncio.sleep(0.05)
        desk.unwanted.add("a/1")
        desk.source.away = False
        await asyncio.sleep(20.0)
        assert list(desk.came) == ["a/2"]
        assert len(desk.reads) == 0
        task.cancel()

    run(scenario())


def test_an_answer_below_what_the_store_had_is_not_believed(caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        desk = Desk()
        task = asyncio.create_task(desk.reads.run())
        desk.ask("a/1", at_least=9)
        desk.ask("a/2", at_least=5)
        await asyncio.sleep(1.0)
        assert list(desk.came) == ["a/2"]
        assert desk.stale > 0
        assert "the store has lost writes that it had, of 'a/1' for one" in desk.reads.trouble
        for number in range(3, 30):  # others are read well meanwhile, and the news stays the same
            desk.ask(f"a/{number}")
            await asyncio.sleep(0.2)
        assert [r.levelname for r in caplog.records].count("ERROR") == 1
        desk.source.sequence = 9
        await asyncio.sleep(5.0)
        assert list(desk.came)[-1] == "a/1"
        task.cancel()

    run(scenario())
