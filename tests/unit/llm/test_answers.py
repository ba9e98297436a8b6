"""What a handler makes of a model's answers: structured, cut off, empty, refused; and of the tools that it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from streams import App, Context, HandlerError, InvocationResult, Message, ModelRefused, UnusableAnswer
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.messages import ToolRequest
from streams.llm.provider_errors import Refused, Unavailable
from streams.testing import Simulation

app = App("answers")
fast = app.model("fast", fallback="sorry", max_output_tokens=77)


class Decision(BaseModel):
    """What to do."""

    action: str
    cents: int = 0


class Ask(BaseModel):
    who: str = "ada"
    caught: bool = False


@app.agent(key="who")
async def decide(ctx: Context[None], ask: Ask) -> str:
    reply = await fast.chat("decide", output=Decision)
    if ask.caught:
        try:
            return reply.output.action
        except UnusableAnswer as error:
            return f"{type(error).__name__} after {reply.finish_reason}: {reply.text}"
    return reply.output.action


@app.tool(timeout=5, effect="read", fallback="unknown")
async def look_up(customer: str, days: int = 30) -> str:
    """Look up what a customer did.

    Args:
        customer: Who.
    """
    return f"{customer} did nothing for {days} days"


@app.agent(key="who")
async def converse(ctx: Context[None], ask: Ask) -> list[dict[str, Any]]:
    messages = [Message(role="user", content="what did ada do?")]
    while (reply := await fast.chat(messages, tools=[look_up])).tool_calls:
        messages += [reply.message, *await reply.run_tools()]
    return [message.to_wire() for message in [*messages, reply.message]]


async def ask(agent: Any, answers: Any, **fields: Any) -> InvocationResult[Any]:
    async with Simulation(app, models={"fast": answers}, tools={"look_up": look_up.local}) as simulation:
        return await simulation.invoke(agent, Ask(**fields))


async def test_an_answer_of_the_type_asked_for():
    asked: list[ChatRequest] = []

    def answer(request: ChatRequest) -> str:
        asked.append(request)
        return '{"action": "refund", "cents": 5}'

    assert (await ask(decide, answer)).value == "refund"
    assert asked[0].schema is not None
    assert (asked[0].schema["title"], asked[0].schema["required"]) == ("Decision", ["action"])
    assert asked[0].max_output_tokens == 77


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ChatResponse('{"action": "ref', finish_reason="length"), "was cut off after 77 tokens (max_output_tokens)"),
        (ChatResponse("", finish_reason="length"), "was cut off after 77 tokens"),
        (ChatResponse(""), "answered nothing (finish_reason 'stop')"),
        (ChatResponse(" \n"), "answered nothing"),
        (ChatResponse("", finish_reason="content_filter"), "was stopped by the provider's content filter"),
        (ChatResponse("I would refund it."), "did not answer in JSON: 'I would refund it.'"),
        (ChatResponse('{"cents": 5}'), "did not answer as asked: action: Field required"),
        (ChatResponse('{"action": "x", "cents": "many"}'), "did not answer as asked: cents: "),
    ],
)
async def test_an_answer_that_is_not_what_was_asked_for_fails_with_what_is_wrong(answer, said):
    result = await ask(decide, lambda request: answer)
    assert (result.status, result.error_type) == ("failed", "UnusableAnswer")
    assert result.error_message.startswith("model 'fast' ")
    assert said in result.error_message


async def test_a_handler_can_look_at_an_answer_that_is_not_what_it_asked_for():
    cut = ChatResponse('{"action": "ref', finish_reason="length")
    assert (await ask(decide, lambda request: cut, caught=True)).value == 'UnusableAnswer after length: {"action": "ref'


async def test_a_complete_answer_counts_whatever_its_finish_reason():
    answer = ChatResponse('{"action": "refund"}', finish_reason="length")
    assert (await ask(decide, lambda request: answer)).value == "refund"


async def test_a_fallback_of_another_type_is_no_answer_of_the_model():
    def down(request: ChatRequest) -> str:
        raise Unavailable("status", "503")

    result = await ask(decide, down, caught=True)
    assert (result.status, result.error_type) == ("failed", HandlerError.__name__)
    assert "the fallback of model 'fast' is 'sorry'" in result.error_message


async def test_what_the_provider_refuses_fails_the_invocation_with_its_words_and_is_asked_once():
    asked: list[ChatRequest] = []

    def refuse(request: ChatRequest) -> str:
        asked.append(request)
        raise Refused(400, "messages[0]: too rude")

    result = await ask(decide, refuse)
    assert (result.status, result.error_type, result.error_message) == (
        "failed", ModelRefused.__name__, "messages[0]: too rude",
    )  # fmt: skip
    assert len(asked) == 1


async def test_tools_are_described_by_their_hints_and_docstring_and_their_answers_go_back_under_their_ids():
    asked: list[ChatRequest] = []

    def answer(request: ChatRequest) -> ChatResponse:
        asked.append(request)
        if len(asked) > 1:
            return ChatResponse("nothing much")
        wishes = (
            ToolRequest(id="c1", name="look_up", arguments='{"customer": "ada"}'),
            ToolRequest(id="c2", name="look_up", arguments='{"customer": 5}'),
            ToolRequest(id="c3", name="look_up", arguments='{"customer": "a'),
            ToolRequest(id="c4", name="guess", arguments="{}"),
        )
        return ChatResponse("", wishes, "tool_calls")

    talk = (await ask(converse, answer)).value
    function = asked[0].tools[0]["function"]
    assert (function["name"], function["description"].splitlines()[0]) == ("look_up", "Look up what a customer did.")
    assert function["parameters"]["properties"]["days"] == {"default": 30, "title": "Days", "type": "integer"}
    assert function["parameters"]["required"] == ["customer"]
    assert [message["role"] for message in talk] == ["user", "assistant", *["tool"] * 4, "assistant"]
    assert [call["id"] for call in talk[1]["tool_calls"]] == ["c1", "c2", "c3", "c4"]
    told = {message["tool_call_id"]: message["content"] for message in talk[2:6]}
    assert told["c1"] == '"ada did nothing for 30 days"'
    assert told["c2"].startswith("error: InvalidInput: arguments of look_up: customer:")
    assert told["c3"].startswith("error: InvalidInput: arguments of look_up:")
    assert told["c4"] == "error: there is no tool 'guess'; there are look_up"
    assert asked[1].messages == talk[:-1]
