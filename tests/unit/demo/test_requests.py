import orjson
import pytest

from streams.demo.provider.requests import BadRequest, input_tokens, parse

USER = {"role": "user", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
ASKS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "done"}


def body(**fields) -> bytes:
    return orjson.dumps({"model": "fast", "messages": [USER], **fields})


def test_a_whole_conversation_is_taken():
    parse(body(messages=[{"role": "system", "content": "be kind"}, USER, ASKS, TOLD, USER], temperature=0, stream=True))


@pytest.mark.parametrize(
    ("broken", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (body(model=""), "model"),
        (body(messages=[]), "messages"),
        (body(messages=[{"role": "robot", "content": ""}]), "messages[0].role"),
        (body(messages=[{"role": "user"}]), "messages[0].content"),
        (body(messages=[{"role": "user", "content": ["hello"]}]), "messages[0].content"),
        (body(messages=[TOLD]), "messages[0].role"),
        (body(messages=[ASKS]), "messages[1]"),
        (body(messages=[ASKS, USER]), "messages[1]"),
        (body(messages=[ASKS, TOLD, TOLD]), "messages[2].role"),
        (body(messages=[{**ASKS, "tool_calls": [{"id": "c1"}]}]), "messages[0].tool_calls"),
        (body(messages=[{"role": "user", "content": "x", "tool_calls": [CALL]}]), "messages[0].tool_calls"),
        (body(tools=[]), "tools"),
        (body(tools=[{"type": "function", "function": {"name": "has.dots"}}]), "tools[0]"),
        (body(tools=[{"type": "function", "function": {"name": "t", "parameters": 1}}]), "tools[0]"),
        (body(response_format={"type": "xml"}), "response_format.type"),
        (body(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), "response_format.json_schema"),
        (body(max_tokens=0), "max_tokens"),
        (body(max_completion_tokens=True), "max_completion_tokens"),
        (body(temperature=3), "temperature"),
        (body(stream="yes"), "stream"),
        (body(n=2), "n"),
        (body(max_output_tokens=5), "max_output_tokens"),
    ],
)
def test_what_openai_refuses_is_refused_with_the_place(broken, param):
    with pytest.raises(BadRequest) as refused:
        parse(broken)
    assert refused.value.param == param


def test_input_is_counted_by_bytes_and_messages():
    assert input_tokens(parse(body(messages=[{"role": "user", "content": "é" * 20}]))) == 10 + 4
    longer = parse(body(messages=[USER, ASKS, TOLD], tools=[{"type": "function", "function": {"name": "refund"}}]))
    assert input_tokens(longer) > 12
