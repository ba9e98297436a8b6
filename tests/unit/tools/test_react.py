import asyncio

import orjson
import pytest
from pydantic import BaseModel

from streams import App, ConfigurationError, Context, Message, ToolRequest
from streams.llm.chat import ChatResponse
from streams.testing import Simulation


class Decision(BaseModel):
    action: str


def wants(*calls):
    requests = tuple(
        ToolRequest(id=f"c{n}", name=name, arguments=orjson.dumps(a).decode()) for n, (name, a) in enumerate(calls)
    )
    return ChatResponse("", requests, "tool_calls")


def shop(**options):
    app = App("shop")

    @app.tool(timeout=5, effect="read", fallback="unknown")
    async def price(item: str) -> str:
        """Look a price up.

        Args:
            item: Its article number.
        """
        return f"{item} costs 3"

    @app.tool(timeout=5, effect="read", fallback="unknown")
    async def stock(item: str) -> str:
        """Count what is there."""
        return f"{item}: 7"

    fast = app.model("fast", fallback="A colleague will get back to you.")
    given = {"key": "customer", "instructions": "Help.", "model": fast, "tools": [price, stock]}
    return app, app.react("support", **{**given, **options})


def script(*answers):
    """Answer one after the other; keeps the requests."""
    seen, left = [], list(answers)

    def answer(request):
        seen.append(request)
        return left.pop(0)

    return seen, answer


async def ask(app, agent, answer, tools=None, request=None, **options):
    chosen = tools or {name: tool.local for name, tool in app.tools.items()}
    async with Simulation(app, tools=chosen, models={"fast": answer}, **options) as simulation:
        return await simulation.invoke(agent, request or {"customer": "ada", "message": "What is a bolt?"}), simulation


async def test_tools_are_called_until_the_model_answers():
    app, support = shop()
    seen, answer = script(wants(("price", {"item": "bolt"}), ("stock", {"item": "bolt"})), "3 cents, 7 left")
    result, simulation = await ask(app, support, answer)
    assert result.value == "3 cents, 7 left"
    assert [call.name for call in simulation.calls if call.name != "fast"] == ["price", "stock"]
    assert [(m["role"], m["content"]) for m in seen[1].messages] == [
        ("system", "Help."),
        ("user", "What is a bolt?"),
        ("assistant", ""),
        ("tool", '"bolt costs 3"'),
        ("tool", '"bolt: 7"'),
    ]


async def test_the_tools_of_a_turn_run_side_by_side():
    app, support = shop()
    _, answer = script(wants(("price", {"item": "bolt"}), ("stock", {"item": "bolt"})), "done")
    _, simulation = await ask(app, support, answer, seconds={"price": 3.0, "stock": 3.0})
    assert 3.0 <= simulation.now_s < 6.0


async def test_errors_and_fallbacks_are_told_to_the_model():
    app, support = shop()

    def broken(item):
        raise RuntimeError("no line")

    seen, answer = script(wants(("price", {"item": "bolt"}), ("price", {"article": 1}), ("steal", {})), "sorry")
    result, _ = await ask(app, support, answer, tools={"price": broken, "stock": broken})
    told = [m["content"] for m in seen[1].messages if m["role"] == "tool"]
    assert told[0] == '{"the tool failed": "error", "fallback": "unknown"}'
    assert told[1].startswith("error: InvalidInput: arguments of price: ")
    assert told[2] == "error: there is no tool 'steal'; there are price, stock"
    assert result.value == "sorry"
    assert result.degraded


async def test_in_its_last_turn_the_model_is_told_to_answer():
    app, support = shop(max_turns=2)
    seen, answer = script(wants(("price", {"item": "bolt"})), "about 3")
    result, _ = await ask(app, support, answer)
    assert result.value == "about 3"
    assert seen[1].messages[-1]["content"].startswith("No more tools can be called")


async def test_a_model_that_never_stops_ends_the_invocation_with_the_bound():
    app, support = shop(max_turns=3)
    result, simulation = await ask(app, support, lambda _: wants(("price", {"item": "bolt"})))
    assert (result.status, result.error_type) == ("failed", "HandlerError")
    assert "in each of its 3 turns (max_turns)" in result.error_message
    assert sum(call.name == "fast" for call in simulation.calls) == 3


async def test_a_crash_at_any_step_changes_nothing():
    app, support = shop()
    _, answer = script(wants(("price", {"item": "bolt"}), ("stock", {"item": "bolt"})), "done")
    async with Simulation(app, tools={n: t.local for n, t in app.tools.items()}, models={"fast": answer}) as simulation:
        simulation.kill_every_step()
        result = await simulation.invoke(support, {"customer": "ada", "message": "hello"})
        assert result.value == "done"
        assert simulation.kills >= 3


async def test_it_remembers_what_was_said_before():
    app, support = shop(remember=4)
    seen, answer = script("I am Bo.", "You asked who I am.")
    async with Simulation(app, models={"fast": answer}) as simulation:
        for text in ("Who are you?", "What did I ask?"):
            await simulation.invoke(support, {"customer": "ada", "message": text})
    assert [m["content"] for m in seen[1].messages] == ["Help.", "Who are you?", "I am Bo.", "What did I ask?"]


async def test_the_answer_is_of_the_type_that_output_names():
    app, support = shop(output=Decision)
    seen, answer = script(wants(("price", {"item": "bolt"})), '{"action": "refund"}')
    result, _ = await ask(app, support, answer)
    assert result.value == Decision(action="refund")
    assert seen[0].schema is not None


async def test_when_the_model_is_out_its_fallback_is_the_answer():
    app, support = shop()

    def out(_):
        raise RuntimeError("down")

    result, _ = await ask(app, support, out)
    assert (result.value, result.degraded) == ("A colleague will get back to you.", True)


async def test_another_agent_can_call_it():
    app, support = shop()

    class Ask(BaseModel):
        customer: str

    @app.agent(key="customer")  # type: ignore[untyped-decorator]
    async def desk(ctx: Context[None], request: Ask) -> str:
        first, second = await asyncio.gather(
            support({"customer": "ada", "message": "one"}), support({"customer": "bob", "message": "two"})
        )
        return f"{first} {second}"

    result, _ = await ask(app, desk, lambda request: request.messages[-1]["content"].upper(), request=Ask(customer="x"))
    assert result.value == "ONE TWO"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_turns": 0}, "max_turns 0 of agent 'support' is below 1"),
        ({"remember": -1}, "remember -1 of agent 'support' is below 0"),
        ({"key": lambda request: "x"}, "has a function for its key; say with input="),
        ({"input": Decision, "key": "action"}, "has no field 'message'; give prompt="),
        ({"input": Decision, "prompt": str}, "key 'customer' of agent 'support' is not a field of Decision"),
    ],
)
def test_wrong_declarations_say_what_is_wrong(options, said):
    with pytest.raises(ConfigurationError, match=said):
        shop(**options)


def test_a_parameters_docstring_is_told_to_the_model():
    app, _ = shop()
    schema = app.tools["price"].arguments.json_schema()
    assert schema["properties"]["item"]["description"] == "Its article number."
    assert app.tools["price"].description == "Look a price up."


def test_messages_of_the_conversation_are_public():
    assert Message(role="user", content="x").to_wire() == {"role": "user", "content": "x"}
