"""What an operator has erased is gone from state and results, and stays gone after a restart."""

from typing import Any

import orjson
from pydantic import BaseModel

from streams import App, Context, Log
from streams.records import decode_as
from streams.records.invocations import Result
from streams.records.signals import Answer, Order
from streams.records.state import StateDelta
from tests.unit.shards.shard import Shard

app = App("erase")


class Ask(BaseModel):
    key: str
    wait: bool = False


class Memory(BaseModel):
    secret: str = "none"
    notes: Log[str] = Log()


@app.agent(key="key", state=Memory)
async def keeper(ctx: Context[Memory], ask: Ask) -> list[Any]:
    if ask.wait:
        await ctx.signal("go")
    before = [ctx.state.secret, await ctx.state.notes.page()]
    ctx.state.secret = f"of {ask.key}"
    ctx.state.notes.append("once more")
    return before


def erase_order(target: str) -> Order:
    return Order("erase", target, "asked for", "ada", 0, "cli", "r-1")


def answer(shard: Shard) -> Answer:
    return [decode_as(Answer, w.value) for w in shard.writes if w.kind == "answers" and w.value is not None][-1]


def deltas(shard: Shard) -> dict[tuple[str, str], StateDelta]:
    written = [decode_as(StateDelta, w.value) for w in shard.writes if w.kind == "state-deltas" and w.value]
    return {(delta.owner, delta.record): delta for delta in written}


def test_records_logs_and_results_of_one_instance_go_and_others_stay():
    shard = Shard(app)
    for key in ("a", "b"):
        for number in range(3):
            shard.invoke(keeper, Ask(key=key), f"{key}{number}")
    shard.arrive(erase_order("keeper/a"), "signals")
    assert (answer(shard).status, answer(shard).message) == ("ok", "4 records deleted, 3 results emptied")
    found = deltas(shard)
    assert all(delta.deleted for (owner, _), delta in found.items() if owner == "keeper/a")
    assert not any(delta.deleted for (owner, _), delta in found.items() if owner == "keeper/b")
    marker = shard.engine.markers.get("keeper/a/a2")
    assert marker is not None
    kept = decode_as(Result, marker.result)
    assert (kept.value, kept.error_message) == (None, "erased by ada")


def test_afterwards_it_begins_anew_also_after_a_restart():
    for restarted in (False, True):
        shard = Shard(app)
        for number in range(3):
            shard.invoke(keeper, Ask(key="a"), f"k{number}")
        shard.arrive(erase_order("keeper/a"), "signals")
        if restarted:
            shard.restart()
        shard.invoke(keeper, Ask(key="a"), "new")
        shard.invoke(keeper, Ask(key="a"), "next")
        results = {r.idempotency_key: orjson.loads(r.value or b"null") for r in shard.results}
        assert results["new"] == ["none", []]
        assert results["next"] == ["of a", ["once more"]]


def test_while_an_invocation_is_live_it_is_refused():
    shard = Shard(app)
    shard.invoke(keeper, Ask(key="a", wait=True))
    shard.arrive(erase_order("keeper/a"), "signals")
    assert answer(shard).status == "refused"
    assert "1 invocations of keeper/a are live (keeper/a/k1)" in answer(shard).message
