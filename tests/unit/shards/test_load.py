"""What a shard says is open, as the note beside its positions."""

import asyncio

from pydantic import BaseModel

from streams import App, Context
from streams.records.load import Load, Queue
from streams.shards.load import load_of
from tests.unit.shards.shard import START_S, Shard

app = App("loaded")


class Ask(BaseModel):
    who: str
    rest: bool = False


@app.tool(timeout=5, effect="read", fallback="none")
async def look(who: str) -> str:
    return who


@app.agent(key="who", version="1")
async def worker(ctx: Context[None], request: Ask) -> str:
    if request.rest:
        await asyncio.sleep(60)
    return await look(request.who)


def load(shard: Shard) -> Load:
    return load_of(shard.engine.live.values(), shard.engine.handlers.working, shard.now)


def test_an_empty_shard_has_no_load():
    assert load(Shard(app)) == Load(int(START_S * 1000))


def test_working_queued_resting_and_parked_are_told_apart():
    shard = Shard(app)
    shard.invoke(worker, Ask(who="busy"), "k1")
    shard.now += 1
    for key in ("k2", "k3"):
        shard.invoke(worker, Ask(who="busy"), key)
        shard.now += 1
    shard.invoke(worker, Ask(who="asleep", rest=True))
    shard.invoke(worker, Ask(who="later"), not_before_ms=int(shard.now * 1000) + 60_000)
    parked = shard.invoke(worker, Ask(who="parked"))
    shard.engine.handlers.park(shard.engine.live[parked], "by the test")
    found = load(shard)
    assert (found.working, found.queued, found.resting, found.parked) == (1, 2, 2, 1)
    assert found.queues == {"worker": Queue(2, int((START_S + 1) * 1000))}


def test_what_ends_is_no_load_any_more():
    shard = Shard(app)
    for key in ("k1", "k2"):
        shard.invoke(worker, Ask(who="busy"), key)
    shard.answer(shard.calls[0], b'"fine"')
    assert (load(shard).working, load(shard).queued) == (1, 0)
    shard.answer(shard.calls[1], b'"fine"')
    assert load(shard).open == 0
