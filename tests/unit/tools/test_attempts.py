"""One call of a tool: attempts, hedges, threads, and what each way of failing means."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from streams import App, Throttled, Unavailable
from streams.errors import ToolsStuck
from streams.records.steps import ToolCall, ToolResult
from streams.testing.virtual_time import run
from streams.tools.attempts import Attempt, Runner, Terms
from streams.tools.bulkhead import Pacer
from streams.tools.threads import Threads


class Declined(Exception):
    pass


def call_of(tool: Any, arguments: bytes = b"{}") -> ToolCall:
    return ToolCall("a/b/c", 0, 1, tool.name, arguments, tool.policy.effect, 0, 10**15)


class World:
    """One tool and what was seen of its attempts."""

    def __init__(self, function: Callable[..., Any], *, effect: str = "read", **policy: Any) -> None:
        app = App("attempts")
        settings: Any = {"timeout": 10, "effect": effect, "fallback": None, "raises": (Declined,), **policy}
        self.tool: Any = app.tool(**settings)(function)
        self.attempts: list[Attempt] = []

    async def result(self, arguments: bytes = b"{}", **terms: Any) -> ToolResult:
        loop = asyncio.get_running_loop()
        runner = Runner(
            "w", threads=Threads(0), random=Random(1), backoff_s=0.05, backoff_ceiling_s=2.0, clock=loop.time,
            max_result_bytes=1_000,
        )  # fmt: skip
        call = call_of(self.tool, arguments)
        parsed = runner.parse(self.tool, call)
        if isinstance(parsed, ToolResult):
            return parsed
        return await runner.run(self.tool, call, parsed, Terms(observe=self.attempts.append, **terms))


async def takes_text(text: str) -> str:
    return text


def test_arguments_that_do_not_fit_are_told_to_the_caller_and_no_attempt():
    world = World(takes_text)
    result = run(world.result(b'{"text": [1]}'))
    assert (result.status, result.error_type, result.attempts) == ("invalid", "InvalidInput", 0)
    assert "text" in result.error_message
    assert world.attempts == []


@pytest.mark.parametrize(
    ("returned", "reason"),
    [(object(), "valid string"), ("\ud800", "surrogates"), ("x" * 2_000, "max_payload_bytes")],
    ids=["another type", "not UTF-8", "too large"],
)
def test_a_result_that_cannot_be_sent_is_not_a_failure_of_the_dependency(returned, reason):
    async def odd() -> str:
        value: Any = returned
        return value  # type: ignore[no-any-return]

    world = World(odd)
    result = run(world.result())
    assert (result.status, result.cause, result.attempts) == ("failed", "unencodable", 1)
    assert reason in result.error_message
    assert [attempt.failed for attempt in world.attempts] == [False]


@pytest.mark.parametrize(
    ("error", "effect", "attempts"),
    [
        (OSError("lost"), "read", 3),
        (OSError("lost"), "idempotent", 3),
        (OSError("lost"), "at-most-once", 1),
        (SystemExit("bye"), "at-most-once", 1),
        (asyncio.CancelledError("itself"), "at-most-once", 1),
    ],
)
def test_what_a_tool_raises_is_tried_again_as_its_effect_allows(error, effect, attempts):
    async def fails() -> None:
        raise error

    world = World(fails, effect=effect)
    result = run(world.result())
    assert (result.status, result.cause, result.error_type) == ("failed", "error", type(error).__name__)
    assert result.attempts == len(world.attempts) == attempts
    assert all(attempt.failed for attempt in world.attempts)


@pytest.mark.parametrize("error", [Declined("no"), TimeoutError("too slow")])
def test_what_a_tool_declares_crosses_as_it_is_and_is_no_failure(error):
    async def declines() -> None:
        raise error

    world = World(declines, raises=(Declined, TimeoutError))
    result = run(world.result())
    assert (result.status, result.error_type, result.value) == (
        "raised",
        type(error).__name__,
        b'["%s"]' % str(error).encode(),
    )
    assert [attempt.failed for attempt in world.attempts] == [False]


def test_a_call_ends_with_its_timeout_or_its_deadline_whichever_comes_first():
    async def hangs() -> None:
        await asyncio.sleep(1_000)

    for left_s, ended_s in ((100.0, 10.0), (4.0, 4.0)):
        result = run(World(hangs).result(left_s=left_s))
        assert (result.cause, result.attempts) == ("timeout", 1)
        assert result.elapsed_s == pytest.approx(ended_s, abs=0.001)


@pytest.mark.parametrize("terms", [{"wanted": lambda: False}, {"retry": lambda: False}])
def test_no_retry_where_nobody_waits_or_the_budget_is_used_up(terms):
    async def fails() -> None:
        raise OSError

    assert run(World(fails).result(**terms)).attempts == 1


def test_a_throttled_call_waits_as_told_and_counts_for_no_breaker():
    answers = iter([Throttled("429", 6.0), None])
    times: list[float] = []

    async def busy() -> str:
        times.append(asyncio.get_running_loop().time())
        if (error := next(answers)) is not None:
            raise error
        return "done"

    async def scenario() -> tuple[ToolResult, list[Attempt]]:
        world, pacer = World(busy), Pacer(None, asyncio.get_running_loop().time)

        def observe(attempt: Attempt) -> None:
            world.attempts.append(attempt)
            if attempt.throttled:
                pacer.hold(attempt.retry_after_s)

        runner = Runner(
            "w", threads=Threads(0), random=Random(1), backoff_s=0.05, backoff_ceiling_s=2.0,
            clock=asyncio.get_running_loop().time,
        )  # fmt: skip
        terms = Terms(observe=observe, turn=pacer.wait)
        return await runner.run(world.tool, call_of(world.tool), {}, terms), world.attempts

    result, attempts = run(scenario())
    assert (result.status, result.attempts) == ("ok", 2)
    assert times == pytest.approx([0.0, 6.0], abs=0.001)
    assert [(a.failed, a.throttled, a.retry_after_s) for a in attempts] == [(False, True, 6.0), (False, False, 0.0)]


def test_a_dependency_that_is_out_says_for_how_long():
    async def out() -> None:
        raise Unavailable("503", 30.0)

    world = World(out, attempts=1)
    assert run(world.result()).cause == "error"
    assert [(a.failed, a.retry_after_s) for a in world.attempts] == [(True, 30.0)]


class Slow:
    """A dependency whose first call takes long, or fails late; counts what is under way."""

    def __init__(self, first: Exception | float) -> None:
        self.first = first
        self.calls = 0
        self.under_way = 0

    async def ask(self) -> int:
        self.calls += 1
        number = self.calls
        self.under_way += 1
        try:
            if number == 1:
                await asyncio.sleep(self.first if isinstance(self.first, float) else 2.0)
                if isinstance(self.first, Exception):
                    raise self.first
            else:
                await asyncio.sleep(3.0)
            return number
        finally:
            self.under_way -= 1


@pytest.mark.parametrize(
    ("first", "value", "ended_s"),
    [(0.5, b"1", 0.5), (2.0, b"1", 2.0), (9.0, b"2", 4.0), (OSError("late"), b"2", 4.0)],
    ids=["quick", "first wins", "hedge wins", "first fails"],
)
def test_a_slow_read_is_made_twice_and_the_first_answer_counts(first, value, ended_s):
    slow = Slow(first)
    result = run(World(slow.ask, hedge=1.0).result())
    assert (result.value, result.attempts) == (value, 1)
    assert result.elapsed_s == pytest.approx(ended_s, abs=0.001)
    assert slow.calls == (1 if first == 0.5 else 2)
    assert slow.under_way == 0


def test_no_hedge_without_a_budget():
    slow = Slow(9.0)
    assert run(World(slow.ask, hedge=1.0).result(retry=lambda: False)).value == b"1"
    assert slow.calls == 1


async def abandoned(threads: Threads, tool: str, release: threading.Event) -> None:
    """Start a function that waits for *release* and stop waiting for it."""
    call = asyncio.ensure_future(threads.run(tool, release.wait))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])


async def test_threads_that_do_not_return_are_counted_until_they_do():
    threads, release = Threads(2), threading.Event()
    for tool in ("legacy", "legacy"):
        await abandoned(threads, tool, release)
    assert threads.abandoned == {"legacy": 2}
    assert await asyncio.wait_for(threads.run("other", lambda: threading.current_thread().daemon), 10) is True
    release.set()
    while threads.abandoned.total():  # noqa: ASYNC110 - threads give no event to a loop
        await asyncio.sleep(0.001)
    threads.close()


async def test_too_many_of_them_end_the_worker_with_their_names():
    threads, release = Threads(2), threading.Event()
    for tool in ("legacy", "mainframe", "legacy"):
        await abandoned(threads, tool, release)
    with pytest.raises(
        ToolsStuck, match=r"3 threads .*legacy 2, mainframe 1.* more than 2 .tools.max_abandoned_threads"
    ):
        await asyncio.wait_for(threads.overrun(), 1)
    release.set()


async def test_a_thread_is_reused_and_errors_come_through():
    threads = Threads(0)
    first = await threads.run("t", threading.get_ident)
    assert await threads.run("t", threading.get_ident) == first
    with pytest.raises(ZeroDivisionError):
        await threads.run("t", lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run("t", lambda: next(iter(())))
    with pytest.raises(SystemExit):
        await threads.run("t", sys.exit)
    threads.close()
