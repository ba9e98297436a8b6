"""What a shard measures of the invocations that go through it, once for each."""

from pydantic import BaseModel

from streams import App, Context
from streams.observe import registry as m
from tests.unit.shards.shard import START_S, Shard


class Ask(BaseModel):
    key: str = "c-1"


app = App("measured")


@app.tool(timeout=10, effect="read", fallback="unknown")
async def look_up(key: str) -> str:
    return key


@app.agent(key="key")
async def asker(ctx: Context[None], ask: Ask) -> str:
    return await look_up(ask.key)


def seen(shard: Shard, metric: m.Metric) -> dict[tuple[str, ...], tuple[int, float]]:
    """Values and their sum by labels."""
    each = {it.metric: it for it in shard.engine.counters.measures.distributions}
    return {labels: (it.count, round(it.total, 3)) for labels, it in each[metric].items()}


def test_durations_are_from_submission_and_from_the_request():
    shard = Shard(app)
    shard.invoke(asker, Ask(), submitted_at_ms=int(START_S * 1000) - 2_000)
    shard.now += 3.0
    shard.answer(shard.calls[0], b'"active"')
    assert seen(shard, m.INVOCATION_WAIT) == {("asker",): (1, 2.0)}
    assert seen(shard, m.STEP_SECONDS) == {("tool", "look_up", "ok"): (1, 3.0)}
    assert seen(shard, m.INVOCATION_SECONDS) == {("asker", "succeeded"): (1, 5.0)}


def test_a_fallback_makes_step_and_invocation_degraded():
    shard = Shard(app)
    shard.invoke(asker, Ask())
    shard.answer(shard.calls[0], b"", status="failed", cause="timeout")
    assert list(seen(shard, m.STEP_SECONDS)) == [("tool", "look_up", "degraded")]
    assert list(seen(shard, m.INVOCATION_SECONDS)) == [("asker", "degraded")]


def test_a_restart_counts_no_step_again():
    shard = Shard(app)
    shard.invoke(asker, Ask())
    call = shard.calls[0]
    shard.restart()
    shard.answer(call, b'"active"')
    assert seen(shard, m.STEP_SECONDS) == {("tool", "look_up", "ok"): (1, 0.0)}
    assert seen(shard, m.INVOCATION_WAIT) == {}


def test_a_result_that_is_sent_again_is_not_counted_again():
    shard = Shard(app)
    shard.invoke(asker, Ask())
    shard.answer(shard.calls[0], b'"active"')
    shard.invoke(asker, Ask())
    assert [result.repeated for result in shard.results] == [False, True]
    assert seen(shard, m.INVOCATION_SECONDS) == {("asker", "succeeded"): (1, 0.0)}
    assert shard.engine.counters.finished == {"succeeded": 1}
