"""Places and pace of one tool, its budget of retries, and its share of the look-ahead."""

from __future__ import annotations

import asyncio

import pytest

from streams import App
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run
from streams.tools.bulkhead import Pacer, Places
from streams.tools.retry_budget import AT_FIRST, MOST_KEPT, RetryBudget
from streams.tools.shares import UNKNOWN, Shares


def about(seconds: float) -> object:
    """Each callback takes a microsecond of virtual time."""
    return pytest.approx(seconds, abs=0.001)


def test_places_are_given_in_order_and_passed_on():
    async def scenario() -> list[int]:
        places, order = Places(2), []

        async def call(number: int) -> None:
            assert await places.enter()
            order.append(number)
            await asyncio.sleep(1)
            places.leave()

        await asyncio.gather(*map(call, range(5)))
        assert (places.taken, places.waiting) == (0, 0)
        assert asyncio.get_running_loop().time() == about(3)
        return order

    assert run(scenario()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "just as it gets its place"])
def test_who_is_cancelled_leaves_no_place_taken(late):
    async def scenario() -> None:
        places = Places(1)
        await places.enter()
        waiting = asyncio.ensure_future(places.enter())
        await asyncio.sleep(0)
        if late:
            places.leave()
        waiting.cancel()
        await asyncio.wait([waiting])
        if not late:
            places.leave()
        assert (places.taken, places.waiting) == (0, 0)
        assert await places.enter()

    run(scenario())


def test_a_nudge_wakes_those_who_wait_without_a_place():
    async def scenario() -> None:
        places = Places(1)
        await places.enter()
        waiting = [asyncio.ensure_future(places.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        places.nudge()
        assert await asyncio.gather(*waiting) == [False] * 3
        assert (places.taken, places.waiting) == (1, 0)

    run(scenario())


def test_a_rate_holds_over_any_second():
    async def scenario() -> list[float]:
        loop = asyncio.get_running_loop()
        pacer, went = Pacer(50.0, loop.time), []

        async def call() -> None:
            assert await pacer.wait(60)
            went.append(loop.time())

        await asyncio.gather(*(call() for _ in range(200)))
        await asyncio.sleep(10)
        await asyncio.gather(*(call() for _ in range(60)))
        return went

    went = run(scenario())
    most = max(sum(start <= at < start + 1 for at in went) for start in went)
    assert 50 <= most <= 50 + 5  # and the burst, a tenth of a second
    assert went[199] == pytest.approx(4, abs=0.1)


def test_workers_that_share_a_rate_keep_to_it_together():
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        pacers = [Pacer(10.0, loop.time) for _ in range(2)]
        pacers[0].share(0.75)
        pacers[1].share(0.25)
        await asyncio.gather(*(pacers[0].wait(99) for _ in range(75)), *(pacers[1].wait(99) for _ in range(25)))
        return loop.time()

    assert run(scenario()) == pytest.approx(10, abs=0.6)


def test_a_turn_that_comes_too_late_is_not_waited_for():
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pacer = Pacer(1.0, loop.time)
        assert await pacer.wait(0)
        assert not await pacer.wait(0.5)
        assert loop.time() == about(0)
        assert await pacer.wait(1.0)
        assert loop.time() == about(1)

    run(scenario())


@pytest.mark.parametrize("rate", [None, 1_000.0])
def test_nothing_goes_while_the_dependency_wants_to_be_left_alone(rate):
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pacer = Pacer(rate, loop.time)
        pacer.hold(7)
        pacer.hold(3)
        assert not await pacer.wait(6.9)
        assert await pacer.wait(60)
        assert loop.time() == about(7)

    run(scenario())


def test_retries_are_a_part_of_the_calls_whatever_fails():
    budget = RetryBudget(ratio=0.2, per_s=0.0, now=0.0)
    while budget.spend(0.0):
        pass
    retried = 0
    for _ in range(1_000):
        budget.earn()
        retried += budget.spend(0.0)
    assert retried == pytest.approx(200, abs=1)
    assert budget.denied == 1 + 1_000 - retried


def test_a_quiet_tool_has_retries_too_and_saves_no_more_than_its_bound():
    budget = RetryBudget(ratio=0.0, per_s=1.0, now=0.0)
    assert sum(budget.spend(0.0) for _ in range(50)) == AT_FIRST
    assert [budget.spend(2.5), budget.spend(2.5), budget.spend(2.5)] == [True, True, False]
    assert sum(budget.spend(1e6) for _ in range(500)) == MOST_KEPT


def an_app() -> App:
    app = App("shares")

    @app.tool(timeout=1, effect="read", fallback=None, concurrency=300)
    async def wide() -> None: ...

    @app.tool(timeout=1, effect="read", fallback=None, concurrency=2)
    async def narrow() -> None: ...

    @app.tool(timeout=1, effect="read", fallback=None, lane="own")
    async def apart() -> None: ...

    return app


def test_a_topic_is_split_between_its_tools_and_a_tool_has_its_concurrency():
    app = an_app()
    catalogue = Catalogue("ns", lanes=app.lanes())
    shares = Shares(app.tools, catalogue, 600)
    assert {lot: shares.of(lot) for lot in ("wide", "narrow", "apart", UNKNOWN)} == {
        "wide": 300, "narrow": 200, "apart": 600, UNKNOWN: 200,
    }  # fmt: skip
    assert shares.lot("tomorrow") == UNKNOWN
    assert shares.alone(catalogue.name("tool-calls", "own")) == "apart"
    assert shares.alone(catalogue.name("tool-calls")) == ""
