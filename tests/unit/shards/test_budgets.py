"""Budgets of agents: the call that could pass one is not made, and what was used is in the result."""

import asyncio
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from streams import App, Budget, BudgetExceeded, Context
from streams.errors import ConfigurationError
from streams.llm.prices import Price
from streams.records.steps import LlmRequest, LlmResult
from tests.unit.shards.shard import Shard

app = App("budgets")
model = app.model("fast", fallback="sorry", max_output_tokens=100)
PRICES = {"fast": Price(input=0.0, output=1e6)}  # an output token costs 1


class Ask(BaseModel):
    key: str = "a"
    calls: int = 1
    bound: int = 100
    at_once: bool = False


async def talk(ask: Ask) -> int:
    """Make calls until the budget stops it; return how many came through."""
    if ask.at_once:
        calls = (model.chat("hi", max_output_tokens=ask.bound) for _ in range(ask.calls))
        said = await asyncio.gather(*calls, return_exceptions=True)
        return sum(not isinstance(each, BudgetExceeded) for each in said)
    for number in range(ask.calls):
        try:
            await model.chat("hi", max_output_tokens=ask.bound)
        except BudgetExceeded:
            return number
    return ask.calls


@app.agent(key="key", budget=Budget(tokens=1_000))
async def by_tokens(ctx: Context[None], ask: Ask) -> int:
    return await talk(ask)


@app.agent(key="key", budget=Budget(cost=250.0))
async def by_cost(ctx: Context[None], ask: Ask) -> int:
    return await talk(ask)


@app.agent(key="key", budget=Budget(tokens=50))
async def careless(ctx: Context[None], ask: Ask) -> str:
    return (await model.chat("hi")).text


@app.agent(key="key")
async def unbounded(ctx: Context[None], ask: Ask) -> int:
    return await talk(ask)


def requests(shard: Shard) -> list[LlmRequest]:
    return shard.written(LlmRequest)


def reply(
    shard: Shard, request: LlmRequest, *, status: str = "ok", used: tuple[int, int] = (10, 20), **more: Any
) -> None:
    body = orjson.dumps({"text": "hello", "tool_calls": [], "finish_reason": "stop"})
    result = LlmResult(
        request.invocation, request.incarnation, request.step, request.model, status, body,
        input_tokens=used[0], output_tokens=used[1], cost=float(used[1]), **more,
    )  # fmt: skip
    shard.arrive(result, "llm-results")


def converse(shard: Shard, **more: Any) -> int:
    """Answer calls one after the other until the handler is done; return how many were made."""
    answered = 0
    while not shard.results:
        assert len(requests(shard)) == answered + 1
        reply(shard, requests(shard)[answered], **more)
        answered += 1
    return answered


def value(shard: Shard) -> Any:
    return orjson.loads(shard.results[-1].value or b"null")


def test_a_call_that_could_pass_the_budget_is_never_sent():
    shard = Shard(app)
    shard.invoke(by_tokens, Ask(calls=20))
    made = converse(shard, used=(50, 100))
    assert made == value(shard) == 6  # each reserves some 120 of what 150 a call leave
    result = shard.results[-1]
    assert (result.input_tokens, result.output_tokens) == (300, 600)


def test_an_invocation_that_does_not_catch_it_fails_with_what_is_missing():
    shard = Shard(app)
    shard.invoke(careless, Ask())
    assert requests(shard) == []
    result = shard.results[-1]
    assert (result.status, result.error_type) == ("failed", "BudgetExceeded")
    assert "output up to 100" in result.error_message
    assert "0 are spent and 0 reserved of the budget of 50" in result.error_message


def test_calls_at_once_cannot_pass_the_budget_together():
    shard = Shard(app)
    shard.invoke(by_tokens, Ask(calls=20, at_once=True))
    sent = requests(shard)
    assert 7 <= len(sent) <= 8
    for request in sent:
        reply(shard, request, used=(20, 100))
    assert value(shard) == len(sent)
    assert shard.results[-1].input_tokens + shard.results[-1].output_tokens <= 1_000


def test_what_was_used_takes_the_place_of_what_was_reserved():
    shard = Shard(app)
    shard.invoke(by_tokens, Ask(calls=20))
    assert converse(shard, used=(5, 5)) == 20


def test_a_budget_of_money_reserves_the_bound_on_the_output():
    shard = Shard(app, prices=PRICES)
    shard.invoke(by_cost, Ask(calls=20, bound=100))
    assert converse(shard, used=(10, 30)) == 6  # the seventh might cost 100, and 70 are left
    assert shard.results[-1].cost == 180.0


def test_calls_at_once_cannot_pass_a_budget_of_money_together():
    shard = Shard(app, prices=PRICES)
    shard.invoke(by_cost, Ask(calls=20, at_once=True))
    assert len(requests(shard)) == 2


def test_a_budget_holds_over_a_restart_of_the_shard():
    shard = Shard(app, prices=PRICES)
    shard.invoke(by_cost, Ask(calls=20))
    for _ in range(3):
        reply(shard, requests(shard)[-1], used=(10, 60))
    shard.restart()
    shard.wake()
    assert value(shard) == 3
    assert (len(requests(shard)), shard.results[-1].cost) == (3, 180.0)


def test_without_a_budget_calls_are_only_counted():
    shard = Shard(app, prices=PRICES)
    shard.invoke(unbounded, Ask(calls=3))
    assert converse(shard, used=(1_000, 2_000)) == 3
    assert (shard.results[-1].input_tokens, shard.results[-1].cost) == (3_000, 6_000.0)


def test_what_a_failed_call_used_counts_too():
    shard = Shard(app, prices=PRICES)
    shard.invoke(by_cost, Ask(calls=20))
    assert converse(shard, status="failed", cause="unencodable", used=(0, 200)) == 1
    assert shard.results[-1].cost == 200.0
    assert shard.results[-1].degraded


@pytest.mark.parametrize("budget", [{"tokens": 0}, {"cost": -1.0}])
def test_a_budget_of_nothing_is_refused_where_it_is_declared(budget):
    with pytest.raises(ConfigurationError, match="leaves nothing to spend"):
        Budget(**budget)
