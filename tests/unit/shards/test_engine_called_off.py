"""Tool calls that nobody waits for any more are called off; what workers say of a call is there to be asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from streams import App, Context
from streams.records.signals import Answer, Cancel, StatusQuery
from streams.records.steps import ToolCancel, ToolNotice
from tests.unit.shards.shard import Shard


def make_app() -> App:
    app = App("called-off")

    @app.tool(timeout=30, effect="read", fallback=-1, max_wait=30)
    async def read(what: str) -> int:
        return 1

    @app.tool(timeout=30, effect="at-most-once", fallback=-1, lane="money")
    async def pay(what: str) -> int:
        return 1

    @app.agent(key=lambda name: name)
    async def impatient(ctx: Context[None], name: str) -> str:
        try:
            async with asyncio.timeout(5):
                await read("slow")
        except TimeoutError:
            return f"no answer, then {await read('second')}"
        return "answered"

    @app.agent(key=lambda name: name)
    async def racing(ctx: Context[None], name: str) -> int:
        calls = [asyncio.ensure_future(call) for call in (read("a"), pay("b"), read("c"))]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        return 7

    @app.agent(key=lambda name: name)
    async def waiting(ctx: Context[None], name: str) -> list[int]:
        return list(await asyncio.gather(read("a"), pay("b")))

    return app


def agent(shard: Shard, name: str) -> Any:
    return shard.app.agents[name]["1"]


def called_off(shard: Shard) -> list[tuple[str, int]]:
    return [(cancel.tool, cancel.step) for cancel in shard.written(ToolCancel)]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_call_that_its_handler_stops_waiting_for_is_called_off_once(restarts):
    shard = Shard(make_app())
    shard.invoke(agent(shard, "impatient"), "ann")
    assert called_off(shard) == []
    if restarts:
        shard.restart()
    shard.wake(6)
    assert called_off(shard) == [("read", 2)]  # the timeout is step 1
    if restarts:
        shard.restart()
    shard.answer(shard.calls[1])
    assert shard.results[0].value == b'"no answer, then 1"'
    assert called_off(shard) == [("read", 2)]  # the timeout is step 1
    (cancel,) = [w for w in shard.writes if w.value and b"read" in w.value and w.kind == "tool-calls"][1:2]
    assert (cancel.lane, cancel.key) == ("", b"impatient/ann")


def test_an_end_calls_off_what_is_still_out_in_the_lane_of_each_tool():
    shard = Shard(make_app())
    shard.invoke(agent(shard, "racing"), "ann")
    shard.answer(shard.calls[0])
    assert shard.results[0].value == b"7"
    assert called_off(shard) == [("pay", 2), ("read", 3)]
    lanes = [w.lane for w in shard.writes if w.kind == "tool-calls"]
    assert lanes == ["", "money", "", "money", ""]


def test_a_cancelled_invocation_calls_off_its_calls():
    shard = Shard(make_app())
    invocation = shard.invoke(agent(shard, "waiting"), "ann")
    shard.arrive(Cancel(invocation, "no longer needed", "test", 0), "signals")
    assert shard.results[0].status == "cancelled"
    assert sorted(called_off(shard)) == [("pay", 2), ("read", 1)]


def test_what_starts_over_does_not_call_off_what_may_happen_only_once():
    shard = Shard(make_app())
    invocation = shard.invoke(agent(shard, "waiting"), "ann")
    assert shard.order("restart", invocation).status == "ok"
    assert called_off(shard) == [("read", 1)]
    first_pay = next(call for call in shard.calls if call.tool == "pay")
    shard.answer(first_pay, b"5")
    shard.answer(shard.calls[-1], b"2")
    assert shard.results[0].value == b"[2,5]"


def test_no_call_is_called_off_by_an_invocation_that_has_its_answers():
    shard = Shard(make_app())
    shard.invoke(agent(shard, "waiting"), "ann")
    for call in shard.calls:
        shard.answer(call)
    assert shard.results[0].status == "succeeded"
    assert called_off(shard) == []


def test_a_workers_notice_is_shown_with_the_step_that_waits():
    shard = Shard(make_app())
    invocation = shard.invoke(agent(shard, "impatient"), "ann")
    call = shard.calls[0]
    shard.arrive(
        ToolNotice(call.invocation, 0, call.step, "read", "the worker has no tool 'read'", "w", 0), "tool-results"
    )
    shard.arrive(ToolNotice(call.invocation, 9, call.step, "read", "of another incarnation", "w", 0), "tool-results")
    shard.arrive(StatusQuery(invocation, "client", "r1", 0), "signals")
    wait = orjson.loads(shard.written(Answer)[0].value)["waits_for"][0]
    assert (wait["kind"], wait["name"], wait["notice"]) == ("tool", "read", "the worker has no tool 'read'")
    assert wait["falls_back_in_s"] == 60
