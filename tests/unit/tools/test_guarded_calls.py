"""What a worker's breaker and limiter make of calls: probes, throttling, Retry-After, retries that come too late."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from streams import App, Throttled, Unavailable
from streams.breakers import BreakerSettings
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.records.control import BreakerState
from streams.records.steps import ToolCall, ToolResult
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run
from streams.tools.claims import Claims
from streams.tools.role import ToolRole
from streams.tools.settings import ToolSettings
from streams.tools.ticket import Ticket

CATALOGUE = Catalogue("shop", 1)
BREAKERS = BreakerSettings(window_calls=10, minimum_calls=5, open_s=5, jitter=0)


class Worker:
    """A worker with one tool that does what the test says."""

    def __init__(self, behave: Callable[[int], Any], *, settings: ToolSettings | None = None, **policy: Any) -> None:
        app, self.calls = App("shop"), list[float]()

        @app.tool(timeout=10, effect="read", fallback=None, **policy)
        async def crm() -> int:
            self.calls.append(asyncio.get_running_loop().time())
            result = behave(len(self.calls))
            return int(await result if asyncio.iscoroutine(result) else result)

        log = SimulatedLog(Random(1))
        self.now_ms = log.now_ms
        self.broker = SimulatedBroker(log, "worker")
        self.role = ToolRole(
            app, self.broker, CATALOGUE, settings or ToolSettings(), breakers=BREAKERS,
            now=lambda: log.now_ms() / 1000, clock=asyncio.get_running_loop().time, random=Random(1),
        )  # fmt: skip
        self.guard = self.role.guards["tool:crm"]
        self.step = 0

    async def call(self, probe: str = "", within_s: float = 60.0) -> ToolResult:
        self.step += 1
        now_ms = self.now_ms()
        call = ToolCall(
            "a/b/c", 1, self.step, "crm", b"{}", "read", now_ms, now_ms + round(within_s * 1000), probe=probe
        )
        claims = Claims(self.broker, CATALOGUE, 0, worker="w", kept_s=1)
        task = asyncio.current_task()
        assert task is not None
        return await self.role.execution.run(call, Ticket(task), claims)

    def follow(self, phase: str, number: int, **fields: Any) -> None:
        self.guard.apply(BreakerState("tool:crm", phase, 1, number, "because", 0, **fields))


def fail(error: Exception) -> Callable[[int], int]:
    def behave(number: int) -> int:
        raise error

    return behave


def test_a_probe_is_one_call_however_often_the_tool_may_be_retried_or_hedged():
    async def scenario() -> None:
        async def slow_failure() -> int:
            await asyncio.sleep(1)
            raise OSError("gone")

        worker = Worker(lambda number: slow_failure(), attempts=3, hedge=0.1)
        # The record that leased the probe is still on its way here.
        assert (await worker.call("1.1")).cause == "error"
        assert len(worker.calls) == 1
        assert [d.probe for d in worker.guard.drain(worker.now_ms()) if d.probe] == ["failed"]
        assert (await worker.call("1.1")).cause == "open"
        worker.follow("half-open", 2, probe_holder="shards-1", probe_expires_ms=10**13)
        assert (await worker.call()).cause == "open"
        assert (await worker.call("1.2")).cause == "error"
        assert len(worker.calls) == 2

    run(scenario())


def test_calls_that_are_throttled_are_held_and_no_breaker_counts_them():
    async def scenario() -> None:
        worker = Worker(lambda number: fail(Throttled("slow down", 3))(number) if number % 2 else number, attempts=2)
        results = [await worker.call() for _ in range(10)]
        assert {result.status for result in results} == {"ok"}
        assert worker.guard.totals == {"calls": 10, "failures": 0, "slow": 0, "short_circuited": 0}
        gaps = [later - earlier for earlier, later in zip(worker.calls[::2], worker.calls[1::2], strict=True)]
        assert min(gaps) >= 3

    run(scenario())


def test_a_throttled_tool_holds_its_other_calls_too():
    async def scenario() -> None:
        worker = Worker(lambda number: fail(Throttled("slow down"))(number) if number == 1 else number, attempts=1)
        first = await worker.call()
        assert (first.cause, first.error_type) == ("throttled", "Throttled")
        assert (await worker.call()).status == "ok"
        assert worker.calls[1] - worker.calls[0] >= 1

    run(scenario())


def test_the_open_time_honours_what_a_tool_was_told():
    async def scenario() -> None:
        worker = Worker(fail(Unavailable("maintenance", 40)), attempts=3)
        for _ in range(5):
            result = await worker.call()
        # A retry within the call's ten seconds would come before the dependency wants to be asked again.
        assert (result.attempts, len(worker.calls)) == (1, 5)
        opened = worker.guard.state
        assert (opened.phase, opened.until_ms - opened.since_ms) == ("open", 40_000)

    run(scenario())


def test_a_call_that_began_before_its_breaker_opened_is_not_made_again():
    async def scenario() -> None:
        async def slow_failure() -> int:
            await asyncio.sleep(1)
            raise OSError("gone")

        worker = Worker(lambda number: slow_failure(), attempts=3)
        task = asyncio.ensure_future(worker.call())
        await asyncio.sleep(0.5)
        worker.follow("open", 1, until_ms=worker.now_ms() + 60_000)
        assert (await task).attempts == 1
        assert len(worker.calls) == 1

    run(scenario())


@pytest.mark.parametrize("bound", ["tool", "process"])
def test_calls_that_wait_for_a_place_are_answered_when_the_breaker_opens(bound):
    async def scenario() -> None:
        async def hang() -> int:
            await asyncio.sleep(9)
            return 1

        settings = ToolSettings(concurrency=2 if bound == "process" else 100)
        worker = Worker(lambda number: hang(), settings=settings, concurrency=2 if bound == "tool" else 100)
        tasks = [asyncio.ensure_future(worker.call()) for _ in range(20)]
        await asyncio.sleep(1)
        worker.follow("open", 1, until_ms=worker.now_ms() + 60_000)
        worker.role.execution.look_again("crm")
        await asyncio.sleep(0.1)
        assert sorted(task.result().cause for task in tasks if task.done()) == ["open"] * 18
        assert [d.short_circuited for d in worker.guard.drain(worker.now_ms()) if d.short_circuited] == [18]
        assert {(await task).status for task in tasks if not task.done()} <= {"ok"}
        assert len(worker.calls) == 2

    run(scenario())


def test_a_probe_that_is_stopped_gives_its_lease_on():
    async def scenario() -> None:
        async def hang() -> int:
            await asyncio.sleep(9)
            return 1

        worker = Worker(lambda number: hang())
        worker.follow("half-open", 1, probe_holder="shards-1", probe_expires_ms=10**13)
        task = asyncio.ensure_future(worker.call("1.1"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert [(d.probe, d.generation) for d in worker.guard.drain(worker.now_ms()) if d.probe] == [("void", "1.1")]

    run(scenario())
