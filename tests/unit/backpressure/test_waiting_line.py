"""The line in which submissions wait, in virtual time."""

import asyncio
from random import Random

import pytest

from streams.backpressure import WaitingLine
from streams.errors import Backpressure, TooManyWaiting
from streams.testing.virtual_time import run


class Lane:
    """A gate that is closed until `opens_s`, then has room for one every `pace_s`."""

    def __init__(self, opens_s: float, pace_s: float = 0.0, *, told_s: float = 60.0, **bounds: int) -> None:
        self.opens_s, self.pace_s, self.told_s = opens_s, pace_s, told_s
        self.low_too_s = opens_s
        self.looks = 0
        self.passed: list[tuple[str, float]] = []
        limits = {"most": 1_000, "most_bytes": 1_000_000, **bounds}
        self.line = WaitingLine("invocations", self.check, Random(1).random, **limits)

    def check(self, priority: str) -> float | None:
        now = asyncio.get_running_loop().time()
        self.looks += 1
        if now < (self.low_too_s if priority == "low" else self.opens_s):
            return self.told_s
        self.opens_s = max(self.opens_s, now) + self.pace_s
        return None

    async def submit(self, name: str, priority: str = "normal", timeout_s: float = 600.0) -> None:
        await self.line.wait(priority, 100, timeout_s)
        self.passed.append((name, asyncio.get_running_loop().time()))


def test_they_leave_soon_after_the_lane_opens_though_they_were_told_to_wait_longer():
    async def scenario() -> None:
        lane = Lane(10.0)
        await lane.submit("one")
        assert 10.0 <= lane.passed[0][1] <= 10.5

    run(scenario())


def test_high_priorities_leave_first_and_each_in_their_order():
    async def scenario() -> None:
        lane = Lane(5.0, 0.2)
        async with asyncio.TaskGroup() as tasks:
            for name in ("low-1", "normal-1", "high-1", "low-2", "high-2", "normal-2"):
                tasks.create_task(lane.submit(name, name[:-2]))
        assert [name for name, _ in lane.passed] == ["high-1", "high-2", "normal-1", "normal-2", "low-1", "low-2"]

    run(scenario())


def test_low_priorities_that_must_wait_keep_nobody_else_waiting():
    async def scenario() -> None:
        lane = Lane(0.0)
        lane.low_too_s = 50.0
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lane.submit("low", "low"))
            await asyncio.sleep(3)
            tasks.create_task(lane.submit("normal"))
        (first, first_s), (second, second_s) = lane.passed
        assert (first, second) == ("normal", "low")
        assert first_s < 4
        assert second_s >= 50

    run(scenario())


def test_a_thousand_that_wait_look_no_more_often_than_one():
    async def scenario() -> None:
        lane = Lane(100.0)
        async with asyncio.TaskGroup() as tasks:
            for number in range(1_000):
                tasks.create_task(lane.submit(str(number)))
            await asyncio.sleep(99)
            assert lane.looks < 450
        assert len(lane.passed) == 1_000

    run(scenario())


def test_a_full_line_says_so_with_its_bounds():
    async def scenario() -> None:
        lane = Lane(100.0, most=3)
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(lane.submit(str(n))) for n in range(3)]
            await asyncio.sleep(1)
            with pytest.raises(TooManyWaiting, match=r"3 submissions of 0\.0 MB wait .*STREAMS_CLIENT__MAX_WAITING"):
                await lane.submit("one more")
            large = Lane(100.0, most_bytes=150)
            waiting.append(tasks.create_task(large.submit("first")))
            await asyncio.sleep(0)
            with pytest.raises(TooManyWaiting):
                await large.submit("second")
            for task in waiting:
                task.cancel()

    run(scenario())


def test_who_waits_too_long_is_told_and_whoever_gives_up_leaves_a_free_place():
    async def scenario() -> None:
        lane = Lane(100.0, most=2)
        with pytest.raises(Backpressure, match=r"try again in 60\.0 s"):
            await lane.submit("impatient", timeout_s=5.0)
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(lane.submit("first"))
            second = tasks.create_task(lane.submit("second"))
            await asyncio.sleep(1)
            first.cancel()
            await asyncio.sleep(1)
            assert len(lane.line) == 1
            tasks.create_task(lane.submit("third"))
            await second
        assert [name for name, _ in lane.passed] == ["second", "third"]
        assert len(lane.line) == 0

    run(scenario())
