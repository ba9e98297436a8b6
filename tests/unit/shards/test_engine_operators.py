"""Changed code, missing versions, and what operators do about it."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from streams import App, Context
from streams.records.signals import Cancel
from tests.unit.shards.shard import Shard


class Ask(BaseModel):
    key: str = "a"


def declare(order: str = "pay first", *, versions: tuple[str, ...] = ("1",), patched: bool = False) -> App:
    """Return one of several deploys of the same application."""
    app = App("operators")

    @app.tool(timeout=5, effect="at-most-once", fallback=-1)
    async def pay(cents: int) -> int:
        raise NotImplementedError

    @app.tool(timeout=5, effect="read", fallback=-1)
    async def look(n: int) -> int:
        raise NotImplementedError

    async def agent(ctx: Context[None], ask: Ask) -> list[Any]:
        seen = [await pay(5), await look(1)] if order == "pay first" else [await look(1), await pay(5)]
        if patched and ctx.patched("third"):
            seen.append(await look(3))
        return [*seen, await look(2)]

    async def approved(ctx: Context[None], ask: Ask) -> list[Any]:
        value = await ctx.signal("approval")
        return [value, await look(1)]

    async def hasty(ctx: Context[None], ask: Ask) -> list[Any]:
        try:
            async with asyncio.timeout(1):
                paid = await pay(5)
        except TimeoutError:
            paid = -2
        return [paid, await look(1)]

    for version in versions:
        app.agent(key="key", name="agent", version=version)(agent)
    app.agent(key="key", name="approved")(approved)
    app.agent(key="key", name="hasty")(hasty)
    return app


def parked_after_payment() -> tuple[Shard, str]:
    """Return a shard whose invocation has paid and meets code that looks first."""
    shard = Shard(declare())
    identity = shard.invoke(shard.app.latest("agent"), Ask())
    shard.answer(shard.calls[0], b"5")
    shard.restart(declare("look first"))
    shard.answer(shard.calls[1], b"1")
    return shard, identity


def test_changed_code_parks_visibly_and_the_right_code_goes_on():
    shard, identity = parked_after_payment()
    live = shard.engine.live[identity]
    assert live.phase == "parked"
    assert live.reason.startswith("NonDeterminism")
    assert shard.order("resume", identity).status == "ok"
    assert shard.engine.live[identity].phase == "parked"
    shard.restart(declare())
    assert shard.order("resume", identity).message == "running"
    shard.answer(shard.calls[-1], b"2")
    assert [r.value for r in shard.results] == [b"[5,1,2]"]


def test_a_restart_keeps_the_outcome_of_what_may_happen_once():
    shard, identity = parked_after_payment()
    assert shard.order("restart", identity).message == "restarted"
    looked = [call for call in shard.calls if call.tool == "look" and call.incarnation == 1]
    shard.answer(looked[0], b"11")
    shard.answer(next(c for c in shard.calls[::-1] if c.tool == "look"), b"22")
    assert [r.value for r in shard.results] == [b"[11,5,22]"]
    assert sum(call.tool == "pay" for call in shard.calls) == 1


@pytest.mark.parametrize("crash", [False, True])
def test_a_restart_waits_for_a_call_that_is_still_out(crash):
    shard = Shard(declare())
    identity = shard.invoke(shard.app.latest("agent"), Ask())
    shard.order("restart", identity)
    if crash:
        shard.restart()
    shard.order("restart", identity)
    if crash:
        shard.restart()
    assert len(shard.calls) == 1
    shard.answer(shard.calls[0], b"5")
    shard.answer(shard.calls[1], b"1")
    shard.answer(shard.calls[2], b"2")
    assert [r.value for r in shard.results] == [b"[5,1,2]"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_restart_knows_what_came_of_a_call_that_nobody_waited_for_any_more(crash):
    shard = Shard(declare())
    identity = shard.invoke(shard.app.latest("hasty"), Ask())
    shard.wake(2.0)  # the handler has given up, and looks instead
    shard.answer(shard.calls[0], b"5")
    if crash:
        shard.restart()
    shard.order("restart", identity)
    if crash:
        shard.restart()
    assert [call.tool for call in shard.calls if call.incarnation] == ["look"]
    shard.answer(shard.calls[-1], b"1")
    assert [r.value for r in shard.results] == [b"[5,1]"]


def test_a_restart_of_an_agent_that_is_gone_is_refused_and_changes_nothing():
    shard, identity = parked_after_payment()
    app = declare()
    del app.agents["agent"]
    shard.restart(app)
    answer = shard.order("restart", identity)
    assert (answer.status, shard.engine.live[identity].incarnation) == ("refused", 0)
    assert "has no agent 'agent'" in answer.message


def test_a_restart_keeps_signals_and_cancels():
    shard = Shard(declare())
    identity = shard.invoke(shard.app.latest("approved"), Ask())
    shard.signal(identity, "approval", b'"yes"')
    shard.order("restart", identity)
    shard.answer(shard.calls[-1], b"1")
    assert [r.value for r in shard.results] == [b'["yes",1]']
    shard, identity = parked_after_payment()
    shard.arrive(Cancel(identity, "no more", "test", 0), "signals")
    shard.order("restart", identity)
    assert [r.status for r in shard.results] == ["cancelled"]


def test_fail_ends_a_parked_one_and_leaves_nothing():
    shard, identity = parked_after_payment()
    assert shard.order("fail", identity).message == "failed"
    assert [(r.status, r.error_type) for r in shard.results] == [("failed", "HandlerError")]
    assert set(shard.journal.latest) == {b"\x00cursor", identity.encode()}


@pytest.mark.parametrize(
    ("action", "target"), [("resume", "agent/a/k1"), ("fail", "agent/b/k1"), ("explode", "agent/a/k1")]
)
def test_an_order_that_does_not_apply_is_refused_by_name(action, target):
    shard = Shard(declare())
    shard.invoke(shard.app.latest("agent"), Ask())
    answer = shard.order(action, target)
    assert answer.status == "refused"
    assert target in answer.message or action in answer.message


def test_a_missing_version_waits_with_what_comes_for_it_and_goes_on_when_deployed():
    shard = Shard(declare(versions=("1", "2")))
    identity = shard.invoke(shard.app.latest("agent"), Ask())
    shard.restart(declare(versions=("1",)))
    shard.answer(shard.calls[0], b"5")
    assert "no version '2'" in shard.engine.live[identity].reason
    shard.restart(declare(versions=("1",)))
    shard.wake()
    assert shard.engine.live[identity].phase == "parked"
    shard.restart(declare(versions=("2", "3")))
    shard.wake()
    shard.answer(shard.calls[1], b"1")
    shard.answer(shard.calls[2], b"2")
    assert [(r.value, r.version) for r in shard.results] == [(b"[5,1,2]", "2")]


def test_a_patch_is_taken_by_those_that_have_not_passed_it():
    shard = Shard(declare())
    agent = shard.app.latest("agent")
    past, before = shard.invoke(agent, Ask(key="past")), shard.invoke(agent, Ask(key="before"))
    shard.answer(shard.calls[0], b"5")
    shard.answer(shard.calls[2], b"1")  # has asked for its last look
    shard.restart(declare(patched=True))
    for call in shard.calls[3:]:
        shard.answer(call, b"2")
    shard.answer(shard.calls[1], b"5")
    for _ in range(3):
        shard.answer(shard.calls[-1], b"9")
        shard.restart()
    assert {r.id: r.value for r in shard.results} == {past: b"[5,1,2]", before: b"[5,9,9,9]"}


def test_a_paused_agent_takes_no_new_ones_until_it_is_unpaused():
    shard = Shard(declare())
    shard.order("pause", "agent")
    shard.restart()
    for number in range(2):
        shard.invoke(shard.app.latest("agent"), Ask(), f"k{number}")
    assert not shard.calls
    shard.order("unpause", "agent")
    assert len(shard.calls) == 1
