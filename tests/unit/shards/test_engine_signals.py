"""Signals: early, buffered, once each, in order, or not in time."""

import asyncio

from pydantic import BaseModel

from streams import App, Context
from streams.records.signals import Cancel
from tests.unit.shards.shard import Shard

app = App("signals")


class Ask(BaseModel):
    key: str = "a"
    count: int = 1
    wait_s: float = 0.0


@app.agent(key="key")
async def listens(ctx: Context[None], ask: Ask) -> list[int]:
    await asyncio.sleep(ask.wait_s)
    return [await ctx.signal("go", int) for _ in range(ask.count)]


@app.agent(key="key")
async def gives_up(ctx: Context[None], ask: Ask) -> str:
    try:
        return str(await ctx.signal("go", int, timeout=5))
    except TimeoutError as error:
        return type(error).__name__


def test_one_that_comes_before_its_invocation_is_kept_over_a_restart():
    shard = Shard(app)
    shard.signal("listens/a/k1", "go", b"7")
    shard.restart()
    shard.invoke(listens, Ask())
    assert [r.value for r in shard.results] == [b"[7]"]
    assert set(shard.journal.latest) == {b"\x00cursor", b"listens/a/k1"}


def test_early_ones_for_nobody_are_forgotten():
    shard = Shard(app, early_s=10.0)
    shard.signal("listens/a/k1", "go", b"7")
    assert shard.engine.next_wake is not None
    shard.wake(11)
    assert set(shard.journal.latest) == {b"\x00cursor"}


def test_each_is_delivered_once_however_often_it_comes():
    shard = Shard(app)
    shard.signal("listens/a/k1", "go", b"1", "first")
    shard.signal("listens/a/k1", "go", b"1", "first")
    identity = shard.invoke(listens, Ask(count=3, wait_s=5.0))
    shard.signal(identity, "go", b"2", "second")
    shard.restart()
    shard.signal(identity, "go", b"2", "second")
    shard.wake(5)
    shard.signal(identity, "go", b"1", "first")
    shard.restart()
    shard.signal(identity, "go", b"2", "second")
    assert not shard.results
    shard.signal(identity, "go", b"3", "third")
    assert [r.value for r in shard.results] == [b"[1,2,3]"]


def test_one_of_another_name_waits_for_who_wants_it():
    shard = Shard(app)
    identity = shard.invoke(listens, Ask())
    shard.signal(identity, "stop", b"0", "other")
    assert len(shard.engine.live[identity].signals) == 1


def test_one_that_does_not_come_in_time_raises_and_a_late_one_changes_nothing():
    shard = Shard(app)
    identity = shard.invoke(gives_up, Ask())
    shard.wake(5)
    shard.signal(identity, "go", b"1")
    assert [r.value for r in shard.results] == [b'"SignalTimeout"']


def test_one_of_the_wrong_type_is_a_named_failure():
    shard = Shard(app)
    shard.signal(shard.invoke(listens, Ask()), "go", b'"text"')
    assert [(r.status, r.error_type) for r in shard.results] == [("failed", "InvalidInput")]


def test_what_is_kept_for_one_invocation_is_bounded_in_number_and_bytes():
    shard = Shard(app, max_signals=5, max_payload_bytes=1_000)
    identity = shard.invoke(listens, Ask(wait_s=100.0))
    for number in range(10):
        shard.signal(identity, "go", b"1" * 400, f"{number}")
    assert len(shard.engine.live[identity].signals) == 2
    assert shard.engine.counters.ignored == 8


def test_an_early_cancel_ends_its_invocation():
    shard = Shard(app)
    shard.arrive(Cancel("listens/a/k1", "too late", "test", 0), "signals")
    shard.invoke(listens, Ask())
    assert [r.status for r in shard.results] == ["cancelled"]
