"""A tool worker on the simulated log: shares and the overflow lane, cancels, deadlines, drain, takeovers."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from streams import App, call_info
from streams.breakers import BreakerSettings
from streams.broker.overflow import ORIGIN
from streams.broker.port import Message, Partition, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.records import decode, encode
from streams.records.headers import header
from streams.records.steps import ToolCall, ToolCancel, ToolNotice, ToolResult
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run
from streams.tools.role import ToolRole
from streams.tools.settings import ToolSettings

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

NEVER = BreakerSettings(minimum_calls=100_000, window_calls=100_000)


class Outside:
    """What the tools act on."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def take(self, tool: str, seconds: float) -> None:
        info = call_info()
        assert info is not None
        self.started[info.idempotency_key] += 1
        self.running[tool] += 1
        self.most["all"] = max(self.most["all"], self.running.total())
        self.most[tool] = max(self.most[tool], self.running[tool])
        try:
            await asyncio.sleep(seconds)
            self.finished[info.idempotency_key] += 1
        finally:
            self.running[tool] -= 1


class World:
    """One worker, or several, over one partition."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        self.outside = Outside()
        self.log = SimulatedLog(Random(seed))
        self.catalogue = Catalogue("ns", 1)
        self.log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in self.catalogue.topics()])
        self.broker = SimulatedBroker(self.log, "test")
        self.settings = ToolSettings(**{"max_open": 4, "breaker_report_s": 5.0, **settings})
        self.calls: list[ToolCall] = []
        self.roles: list[ToolRole] = []
        self._results: dict[str, ToolResult] = {}
        self._seen = 0

    def app(self) -> App:
        app, outside = App("ns"), self.outside

        @app.tool(timeout=60, effect="read", fallback=None, concurrency=1)
        async def slow() -> None:
            await outside.take("slow", 50.0)

        @app.tool(timeout=60, effect="read", fallback=None, concurrency=4)
        async def quick() -> None:
            await outside.take("quick", 0.01)

        @app.tool(timeout=60, effect="at-most-once", fallback=None, concurrency=2)
        async def pay() -> None:
            await outside.take("pay", 3.0)

        return app

    def start(self) -> SimulatedBroker:
        loop = asyncio.get_running_loop()
        broker = SimulatedBroker(self.log, f"worker-{len(self.roles)}")
        role = ToolRole(
            self.app(), broker, self.catalogue, self.settings, breakers=NEVER, now=self.now, clock=loop.time,
            random=Random(1),
        )  # fmt: skip
        self.roles.append(role)
        broker.process.spawn(role.run())
        return broker

    async def up(self) -> SimulatedBroker:
        """Start a worker and wait until it reads."""
        broker = self.start()
        while not self.roles[-1].queue.working:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        return broker

    def now(self) -> float:
        return self.log.now_ms() / 1000

    async def call(
        self, tool: str, count: int = 1, *, deadline_s: float = 3_600.0, effect: str = "read"
    ) -> list[ToolCall]:
        made: list[ToolCall] = []
        for _ in range(count):
            deadline_ms = int((self.now() + deadline_s) * 1000)
            made.append(ToolCall(f"a/b/{len(self.calls) + len(made)}", 0, 1, tool, b"{}", effect, 0, deadline_ms))
        self.calls += made
        await self.send(*made)
        return made

    async def cancel(self, call: ToolCall) -> None:
        await self.send(ToolCancel(call.invocation, call.incarnation, call.step, call.tool))

    async def send(self, *records: Any) -> None:
        topic = self.catalogue.name("tool-calls")
        async with self.broker.producer() as producer:
            await producer.send(*(Message(topic, b"a/b", encode(record), 0) for record in records))

    def results(self) -> dict[str, ToolResult]:
        for record in self.log.records(self.catalogue.name("tool-results"))[self._seen :]:
            self._seen += 1
            result = decode(record.value or b"")
            if isinstance(result, ToolResult):
                self._results.setdefault(result.invocation, result)
        return self._results

    def notices(self) -> list[ToolNotice]:
        records = [decode(r.value or b"") for r in self.log.records(self.catalogue.name("tool-results"))]
        return [record for record in records if isinstance(record, ToolNotice)]

    def moved(self) -> list[str]:
        return [header(r.headers, ORIGIN) for r in self.log.records(self.catalogue.name("tool-overflow"))]

    async def answered(self, calls: list[ToolCall], within_s: float) -> list[ToolResult]:
        async with asyncio.timeout(within_s):
            wanted = {call.invocation for call in calls}
            while not wanted <= self.results().keys():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.1)
        results = self.results()
        return [results[call.invocation] for call in calls]

    async def committed(self, kind: str) -> int:
        source = Partition(self.catalogue.name(kind), 0)
        return (await self.broker.admin.group_offsets("ns-tools", [source])).get(source, 0)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    run(scenario, max_time_s=100_000, max_steps=3_000_000)


def test_a_long_backlog_of_one_tool_holds_up_no_other():
    async def scenario() -> None:
        world = World()
        await world.call("slow", 40)
        quick = await world.call("quick", 30)
        world.start()
        assert {r.status for r in await world.answered(quick, 5)} == {"ok"}
        assert world.roles[0].queue.overflowed > 30
        assert len(set(world.moved())) == len(world.moved()) > 30
        await world.answered(world.calls, 41 * 50)
        assert world.outside.most["slow"] == 1
        assert set(world.outside.started.values()) == {1}
        await asyncio.sleep(5)
        assert world.roles[0].queue.overflowed == world.roles[0].queue.open_calls == 0
        assert await world.committed("tool-calls") == len(world.calls)
        assert await world.committed("tool-overflow") >= len(world.moved())

    play(scenario())


@pytest.mark.parametrize("parked", [1, 1_000])
def test_a_burst_that_overflowed_does_not_wait_behind_a_backlog_that_did(parked):
    async def scenario() -> None:
        world = World(max_parked=parked)
        await world.call("quick", 40)
        slow = await world.call("slow", 8)
        more = await world.call("quick", 40)
        world.start()
        await world.answered(more, 5 if parked > 1 else 9 * 50)
        await world.answered(slow, 9 * 50)
        assert set(world.outside.started.values()) == {1}

    play(scenario())


def test_calls_that_overflowed_and_were_answered_are_not_moved_again_while_an_earlier_one_goes_on():
    async def scenario() -> None:
        world = World(max_open=6)
        await world.call("slow")
        quick = await world.call("quick", 60)
        first = await world.up()
        await world.answered(quick, 20)
        await asyncio.sleep(2)
        moved = world.moved()
        assert len(moved) > 30
        assert await world.committed("tool-calls") == 0
        assert await world.committed("tool-overflow") >= len(moved)
        first.process.kill()
        await world.up()
        await world.answered(world.calls, 120)
        await asyncio.sleep(2)
        assert world.moved() == moved
        assert await world.committed("tool-calls") == len(world.calls)
        assert {world.outside.started[str(call.id)] for call in quick} == {1}

    play(scenario())


def test_calls_that_moved_are_not_kept_in_memory():
    def alive() -> int:
        gc.collect()
        return sum(isinstance(found, ToolCall) for found in gc.get_objects())

    async def scenario() -> None:
        world, before = World(max_open=6), alive()
        await world.call("quick", 300)
        await world.up()
        await world.answered(world.calls, 60)
        assert len(world.moved()) > 250
        assert alive() - before - len(world.calls) < 20

    play(scenario())


@pytest.mark.parametrize("seed", range(16))
def test_a_takeover_moves_nothing_twice_and_answers_everything(seed):
    async def scenario() -> None:
        world, draw = World(seed), Random(seed)
        process = world.start().process
        for _ in range(6):
            await world.call("quick", draw.randint(1, 20))
            await world.call("pay", draw.randint(1, 4), effect="at-most-once")
            await asyncio.sleep(draw.random() * 2)
            if draw.random() < 0.5:
                process.kill_after(draw.randint(1, 200))
            elif draw.random() < 0.5:
                process.freeze()
                asyncio.get_running_loop().call_later(draw.random() * 20, process.thaw)
            process = world.start().process
        await world.answered(world.calls, 500)
        moved = Counter(world.moved())
        assert not [origin for origin, count in moved.items() if count > 1]
        paid = {call.id: world.outside.started[str(call.id)] for call in world.calls if call.tool == "pay"}
        assert max(paid.values()) == 1
        for call in world.calls:
            result = world.results()[call.invocation]
            assert (result.status, result.cause) in {("ok", ""), ("failed", "interrupted")}
            if result.cause == "interrupted":
                assert call.effect == "at-most-once"

    play(scenario())


def test_a_call_that_nobody_waits_for_is_stopped_where_it_only_reads():
    async def scenario() -> None:
        world = World(max_open=40)
        await world.up()
        running, waiting = await world.call("slow", 2)
        paying, next_paying = (await world.call("pay", 3, effect="at-most-once"))[1:]
        await asyncio.sleep(1)
        for call in (running, waiting, paying, next_paying):
            await world.cancel(call)
        stopped = await world.answered([running, waiting, next_paying], 1.0)
        assert [(r.status, r.cause) for r in stopped] == [("failed", "cancelled")] * 3
        assert (await world.answered([paying], 5))[0].status == "ok"
        assert world.outside.started[str(running.id)] == 1
        assert world.outside.finished[str(running.id)] == world.outside.started[str(waiting.id)] == 0
        assert world.outside.started[str(next_paying.id)] == 0

    play(scenario())


def test_a_cancelled_call_in_the_overflow_lane_is_never_made():
    async def scenario() -> None:
        world = World()
        await world.up()
        slow = await world.call("slow", 6)
        await asyncio.sleep(1)
        assert world.roles[0].queue.overflowed > 0
        for call in slow[1:]:
            await world.cancel(call)
        results = await world.answered(slow, 60)
        assert [r.cause for r in results] == ["", *["cancelled"] * 5]
        assert sum(world.outside.started.values()) == 1

    play(scenario())


def test_a_process_runs_no_more_calls_than_it_may_whatever_their_tools_may():
    async def scenario() -> None:
        world = World(max_open=40, concurrency=3)
        await world.up()
        calls = [*await world.call("pay", 6, effect="at-most-once"), *await world.call("quick", 20)]
        await world.answered(calls, 20)
        assert world.outside.most["all"] == 3

    play(scenario())


def test_an_expired_call_is_answered_without_being_made():
    async def scenario() -> None:
        world = World()
        late = await world.call("quick", 1, deadline_s=0.0)
        await world.up()
        first, second = await world.call("slow", 2, deadline_s=10.0)
        results = await world.answered([*late, first, second], 11)
        assert [(r.cause, r.attempts) for r in results] == [("expired", 0), ("timeout", 1), ("expired", 0)]
        assert world.outside.started[str(late[0].id)] == world.outside.started[str(second.id)] == 0

    play(scenario())


def test_a_tool_that_the_worker_does_not_have_waits_visibly_and_holds_up_nobody():
    async def scenario() -> None:
        world = World()
        await world.up()
        unknown = await world.call("tomorrow", 5, deadline_s=20.0)
        await asyncio.sleep(1)
        assert [n.reason for n in world.notices()] == ["the worker has no tool 'tomorrow'; deploy it"]
        assert world.roles[0].execution.unknown["tomorrow"] == 1
        await world.answered(await world.call("quick", 5), 2)
        assert not world.results().keys() & {call.invocation for call in unknown}
        assert [r.cause for r in await world.answered(unknown, 25)] == ["expired"] * 5

    play(scenario())


@pytest.mark.parametrize(("look_ahead", "position"), [(40, 2), (4, 4)], ids=["waiting", "in the overflow lane"])
def test_a_worker_that_ends_finishes_what_it_has_begun_and_begins_nothing(look_ahead, position):
    async def scenario() -> None:
        world = World(max_open=look_ahead, drain_s=5.0)
        broker = await world.up()
        paying = await world.call("pay", 4, effect="at-most-once")
        await asyncio.sleep(1)
        for task in list(broker.process.tasks):
            if "run" in repr(task.get_coro()) and "ToolRole" in repr(task.get_coro()):
                task.cancel()
        await asyncio.sleep(8)
        assert sum(world.outside.started.values()) == sum(world.outside.finished.values()) == 2
        assert await world.committed("tool-calls") == position
        world.start()
        assert {r.status for r in await world.answered(paying, 20)} == {"ok"}
        assert set(world.outside.started.values()) == {1}

    play(scenario())
