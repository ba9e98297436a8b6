"""`streams.testing.Simulation`, as users meet it."""

import asyncio
import doctest
from typing import Any

import pytest
from pydantic import BaseModel

from streams import App, Context, Failure, Log
from streams.errors import ConfigurationError, UnknownInvocation
from streams.llm.chat import ChatResponse
from streams.llm.messages import ToolRequest
from streams.testing import Simulation, StillWaiting
from streams.testing import simulation as module

app = App("shop")


class Refused(Exception):
    """The bank says no."""


class Order(BaseModel):
    customer: str = "ada"
    cents: int = 250


class Customer(BaseModel):
    spent: int = 0
    receipts: Log[str] = Log()


def unconfirmed(failure: Failure, cents: int) -> str:
    return f"unconfirmed: {failure.cause}"


@app.tool(timeout=5, effect="at-most-once", fallback_fn=unconfirmed, raises=(Refused,))
async def charge(cents: int) -> str:
    return f"real-{cents}"


@app.tool(timeout=5, effect="idempotent", fallback="unknown")
async def look_up(customer: str) -> str:
    raise NotImplementedError


fast = app.model("fast", fallback="nothing")


@app.agent(key="customer", state=Customer)
async def buy(ctx: Context[Customer], order: Order) -> str:
    receipt = await charge(order.cents)
    await asyncio.sleep(86_400)
    ctx.state.spent += order.cents
    ctx.state.receipts.append(receipt)
    return receipt


@app.agent(key="customer")
async def approve(ctx: Context[None], order: Order) -> str:
    by = await ctx.signal("approved", str)
    return f"{await look_up(order.customer)} by {by}"


@app.agent(key="customer")
async def talk(ctx: Context[None], order: Order) -> str:
    reply = await fast.chat("hello", tools=[look_up])
    told = await reply.run_tools()
    return f"{reply.text}{[message.content for message in told]}"


def test_the_example_in_the_documentation_works():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("step", range(1, 5))
async def test_a_crash_at_any_step_charges_once_and_changes_state_once(simulation, step):
    world = simulation(app, tools={"charge": lambda cents: f"r-{cents}"})
    world.kill_at(step)
    result = await world.invoke(buy, Order())
    assert (result.value, result.degraded) == ("r-250", False)
    assert world.state(buy, "ada").spent == 250
    assert len(world.state(buy, "ada").receipts) == 1
    assert [call.arguments for call in world.calls] == [{"cents": 250}]
    assert world.now_s == pytest.approx(86_400)
    assert world.kills == (step <= 3)


async def test_an_interrupted_at_most_once_call_is_not_made_again(simulation):
    world = simulation(app, tools={"charge": charge.local})
    world.interrupt("charge")
    result = await world.invoke(buy, Order())
    assert (result.value, result.degraded) == ("unconfirmed: interrupted", True)
    assert len(world.calls) == 1


async def test_an_interrupted_idempotent_call_is_made_again(simulation):
    world = simulation(app, tools={"look_up": lambda customer: customer.upper()})
    world.interrupt("look_up")
    identity = await world.submit(approve, Order())
    await world.signal(identity, "approved", "eve")
    await world.run()
    assert world.result(identity).value == "ADA by eve"
    assert len(world.calls) == 2


async def test_a_signal_is_waited_for_by_name(simulation):
    world = simulation(app, tools={"look_up": lambda customer: customer})
    identity = await world.submit(approve, Order())
    with pytest.raises(UnknownInvocation, match="call run"):
        world.result(identity)
    await world.run()
    with pytest.raises(StillWaiting, match="approved"):
        world.result(identity)
    await world.signal(identity, "approved", "eve")
    await world.run()
    assert world.result(identity).value == "ada by eve"


async def test_time_that_passes_reaches_the_deadline(simulation):
    world = simulation(app)
    identity = await world.submit(approve, Order(), deadline=60)
    await world.run(61)
    assert world.result(identity).error_type == "DeadlineExceeded"


async def test_a_slow_fake_times_out_and_falls_back(simulation):
    world = simulation(app, tools={"charge": lambda cents: "late"}, seconds={"charge": 9.0})
    assert (await world.invoke(buy, Order())).value == "unconfirmed: timeout"
    assert world.now_s == pytest.approx(86_405)


async def test_a_result_that_is_too_large_is_a_failure_of_the_tool(simulation):
    world = simulation(app, tools={"charge": lambda cents: "x" * 1_500_000})
    assert (await world.invoke(buy, Order())).value == "unconfirmed: unencodable"


async def test_what_a_tool_declares_to_raise_crosses_and_state_stays(simulation):
    def refuse(cents: int) -> str:
        raise Refused("no")

    world = simulation(app, tools={"charge": refuse})
    result = await world.invoke(buy, Order())
    assert (result.status, result.error_type) == ("failed", "Refused")
    assert world.state(buy, "ada").spent == 0


async def test_models_are_texts_responses_or_functions(simulation):
    wish = ChatResponse(tool_calls=(ToolRequest(id="1", name="look_up", arguments='{"customer": "bob"}'),))
    fakes: list[tuple[Any, str]] = [
        ("hi", "hi[]"),
        (wish, "['\"BOB\"']"),
        (lambda request: request.messages[0]["content"], "hello[]"),
    ]
    for fake, expected in fakes:
        world = simulation(app, models={"fast": fake}, tools={"look_up": lambda customer: customer.upper()})
        world.kill_every_step()
        assert (await world.invoke(talk, Order())).value == expected


async def test_a_repeated_invocation_is_run_once(simulation):
    world = simulation(app, tools={"charge": charge.local})
    for _ in range(2):
        result = await world.invoke(buy, Order(), idempotency_key="same")
    assert result.repeated
    assert len(world.calls) == 1


async def test_what_has_no_fake_is_named():
    async with Simulation(app) as world:
        with pytest.raises(ConfigurationError, match=r"tool 'charge', which has no fake.*charge\.local"):
            await world.invoke(buy, Order())
        with pytest.raises(ConfigurationError, match="model 'fast', which has no fake"):
            await world.invoke(talk, Order())
    with pytest.raises(ConfigurationError, match="has no model 'slow'; it has fast"):
        Simulation(app, models={"slow": "x"})
