"""Much of everything: steps, timers, mailboxes, payloads. Cost grows with what happens, and no record without bound."""

import asyncio
import time

import pytest
from pydantic import BaseModel

from streams import App, Context
from streams.errors import CodecError
from streams.shards.effects import Event
from tests.unit.shards.shard import Shard

app = App("bounds")


class Ask(BaseModel):
    key: str = "a"
    n: int = 1
    text: str = ""


@app.tool(timeout=5, effect="at-most-once", fallback="", concurrency=1)
async def pay(n: int) -> str:
    raise NotImplementedError


@app.agent(key="key")
async def loops(ctx: Context[None], ask: Ask) -> int:
    for number in range(ask.n):
        await pay(number)
    return ask.n


@app.agent(key="key")
async def spreads(ctx: Context[None], ask: Ask) -> int:
    return sum(map(len, await asyncio.gather(*(pay(n) for n in range(ask.n)))))


@app.agent(key="key")
async def naps(ctx: Context[None], ask: Ask) -> str:
    await asyncio.sleep(60)
    return "awake"


@app.agent(key="key")
async def quick(ctx: Context[None], ask: Ask) -> int:
    return len(ask.text)


def bytes_of_steps(steps: int) -> tuple[int, float]:
    shard = Shard(app)
    shard.invoke(loops, Ask(n=steps))
    began = time.perf_counter()
    for _ in range(steps):
        call = shard.calls[-1]
        shard.writes.clear()
        shard.answer(call, b'"paid"')
    return shard.journal.bytes_written, time.perf_counter() - began


def test_the_journal_of_many_steps_grows_with_their_number():
    small, _ = bytes_of_steps(500)
    large, _ = bytes_of_steps(5_000)
    assert large < 11 * small


def test_a_restart_in_a_long_handler_finds_all_its_steps():
    shard = Shard(app, chunk_bytes=500)
    shard.invoke(loops, Ask(n=100))
    for number in range(100):
        shard.answer(shard.calls[-1], b'"paid"')
        if number % 10 == 0:
            shard.restart()
    assert [r.value for r in shard.results] == [b"100"]
    assert len(shard.calls) == 100
    assert len(shard.journal.latest) == 2


def test_many_timers_wait_and_ring():
    shard = Shard(app, max_live=200_000, max_hot=100, dedup_count=10)
    agent, count = naps, 10_000
    data = b'{"key": "%d"}'
    for number in range(count):
        shard.engine.step((_event(shard, agent.name, str(number), data % number),), shard.now)
    assert shard.engine.open_count == count
    assert shard.engine.next_wake == pytest.approx(shard.now + 60)
    began = time.perf_counter()
    shard.engine.step((), shard.now + 1)
    assert time.perf_counter() - began < 0.2
    assert len(shard.engine.step((), shard.now + 60)) > count
    assert shard.engine.open_count == 0


def _event(shard: Shard, agent: str, key: str, data: bytes) -> Event:
    return Event("invocations", shard.invocation(agent, key, data))


def test_a_long_mailbox_of_handlers_that_end_at_once_is_worked_off():
    shard = Shard(app, max_mailbox=5_000)
    shard.invoke(naps, Ask())
    shard.app.agents["naps"], kept = {"1": quick}, shard.app.agents["naps"]
    try:
        for number in range(3_000):
            shard.invoke(naps, Ask(), f"m{number}")
        shard.app.agents["naps"] = {"1": quick}
        shard.order("fail", "naps/a/k1")
    finally:
        shard.app.agents["naps"] = kept
    assert len(shard.results) == 3_001


def test_deadlines_of_those_that_have_ended_do_not_pile_up():
    shard = Shard(app)
    for number in range(30_000):
        shard.engine.step((_event(shard, "quick", "a", b'{"key": "a", "n": %d}' % number),), shard.now)
    assert len(shard.engine._wakes) < 15_000


@pytest.mark.parametrize("parked", [False, True])
def test_no_journal_record_grows_beyond_a_payload_however_much_comes_at_once(parked):
    shard = Shard(app)
    text = "x" * 100_000
    identity = shard.invoke(spreads, Ask(n=20, text=text))
    calls = list(shard.calls)
    results: list[Event] = []
    if parked:
        bare = App("bounds")
        shard.restart(bare)
    for call in calls:
        shard.arrive_later(call, b'"' + b"y" * 100_000 + b'"', results)
    shard.arrive_all(results)
    largest = max(len(write.value or b"") for write in shard.writes if write.kind == "journal")
    assert largest < 150_000
    if parked:
        assert len(shard.engine.live[identity].held) == 20
        shard.restart(app)
        shard.wake()
    assert [r.value for r in shard.results] == [b"2000000"]
    assert set(shard.journal.latest) == {b"\x00cursor", identity.encode()}


def test_a_damaged_journal_is_named():
    shard = Shard(app, chunk_bytes=10)
    shard.invoke(loops, Ask(n=5))
    for _ in range(3):
        shard.answer(shard.calls[-1], b'"paid"')
    del shard.journal.latest[b"loops/a/k1\x000\x000"]
    with pytest.raises(CodecError, match=r"loops/a/k1 is missing"):
        shard.restart()


def test_a_fallback_that_is_too_large_is_an_error_of_its_step():
    shard = Shard(app, max_payload_bytes=1_000)
    shard.invoke(loops, Ask())
    shard.answer(shard.calls[0], b'"' + b"z" * 2_000 + b'"')
    assert [(r.status, r.error_type) for r in shard.results] == [("failed", "HandlerError")]
    assert "exceeds 0.00 MB (max_payload_bytes)" in shard.results[0].error_message
