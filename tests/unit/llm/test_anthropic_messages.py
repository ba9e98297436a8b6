import orjson
import pytest

from streams.llm.anthropic_messages import DEFAULT_MAX_OUTPUT_TOKENS, body_of, response_of
from streams.llm.chat import ChatRequest
from streams.llm.headers import NO_HEADERS
from streams.llm.messages import Message, ToolRequest
from streams.llm.usage import Usage

CALLS = (
    ToolRequest(id="c1", name="refund", arguments='{"cents":5}'),
    ToolRequest(id="c2", name="notify", arguments=""),
)
TALK = [
    Message(role="system", content="Be kind."),
    Message(role="user", content="Hello"),
    Message(role="assistant", content="One moment.", tool_calls=CALLS),
    Message(role="tool", tool_call_id="c1", content="paid"),
    Message(role="tool", tool_call_id="c2", content="told"),
]


def request(**fields) -> ChatRequest:
    return ChatRequest("claude", [message.to_wire() for message in TALK], **fields)


def test_a_conversation_with_tools():
    body = body_of(request())
    assert body["system"] == "Be kind."
    assert body["max_tokens"] == DEFAULT_MAX_OUTPUT_TOKENS
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "One moment."},
                {"type": "tool_use", "id": "c1", "name": "refund", "input": {"cents": 5}},
                {"type": "tool_use", "id": "c2", "name": "notify", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "paid"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "told"},
            ],
        },
    ]


@pytest.mark.parametrize("written", ['{"cents": ', "[1]", "5 cents"])
def test_arguments_that_a_model_wrote_wrongly_do_not_end_its_conversation(written):
    calls = (ToolRequest(id="c1", name="refund", arguments=written),)
    body = body_of(ChatRequest("claude", [Message(role="assistant", tool_calls=calls).to_wire()]))
    assert body["messages"][0]["content"][0]["input"] == {"not a JSON object": written}


def test_tools_schema_and_bounds():
    tool = {
        "type": "function",
        "function": {"name": "refund", "description": "Pays.", "parameters": {"type": "object"}},
    }
    body = body_of(request(tools=[tool], schema={"type": "object"}, max_output_tokens=9, temperature=0.5))
    assert body["tools"] == [{"name": "refund", "description": "Pays.", "input_schema": {"type": "object"}}]
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert (body["max_tokens"], body["temperature"]) == (9, 0.5)


def test_an_answer_with_a_tool_call_and_cached_input():
    response = response_of(
        {
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "Paying."},
                {"type": "tool_use", "id": "t1", "name": "refund", "input": {"cents": 5}},
            ],
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 7},
        },
        NO_HEADERS,
    )
    assert (response.text, response.finish_reason, response.usage) == ("Paying.", "tool_calls", Usage(100, 7))
    assert orjson.loads(response.tool_calls[0].arguments) == {"cents": 5}


@pytest.mark.parametrize(
    ("said", "reason"), [("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content_filter"), ("new", "new")]
)
def test_reasons_are_told_in_the_words_of_chat_completions(said, reason):
    answer = {"content": [], "stop_reason": said, "usage": {"input_tokens": 1, "output_tokens": 1}}
    assert response_of(answer, NO_HEADERS).finish_reason == reason
