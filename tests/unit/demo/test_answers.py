import orjson
import pytest
from pydantic import BaseModel, Field

from streams.demo.provider.answers import AskedTool, Json, echo, smallest

TOOL = {"type": "function", "function": {"name": "refund", "parameters": {}}}


def user(text: str) -> Json:
    return {"role": "user", "content": text}


class Inner(BaseModel):
    kind: str = Field(pattern="a|b", min_length=1)
    score: int = Field(ge=3)


class Outer(BaseModel):
    inner: Inner
    many: list[Inner] = Field(min_length=1)
    maybe: float | None
    flag: bool
    optional: str = "default"


def test_an_echo_repeats_the_last_user_message():
    assert echo([user("one"), {"role": "assistant", "content": "x"}, user("two")], (), None).text == "echo: two"


def test_it_writes_as_many_tokens_as_it_is_told_to():
    assert echo([user("please\nwrite 50")], (), None).text == "word" * 50


def test_it_asks_for_a_tool_until_the_result_is_there():
    asked = echo([user('call refund {"cents": 5}')], [TOOL], None)
    assert asked.tool_calls == (AskedTool("refund", {"cents": 5}),)
    told = echo([user('call refund {"cents": 5}'), {"role": "tool", "content": "paid"}], [TOOL], None)
    assert told.text == "echo: paid"


def test_a_tool_that_was_not_offered_is_refused():
    with pytest.raises(ValueError, match="'refund', which is not among the tools"):
        echo([user("call refund {}")], (), None)


def test_structured_output_fits_the_schema():
    wanted = {"type": "json_schema", "json_schema": {"name": "Outer", "schema": Outer.model_json_schema()}}
    made = Outer.model_validate_json(echo([user("hello")], (), wanted).text.replace('"kind":"x"', '"kind":"a"'))
    assert made.inner.score == 3
    assert len(made.many) == 1


def test_a_json_object_is_json():
    assert orjson.loads(echo([user("hello")], (), {"type": "json_object"}).text) == {"echo": "hello"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"type": "integer", "exclusiveMinimum": 4}, 5),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, ""),
        ({}, None),
    ],
)
def test_smallest_values(schema, value):
    assert smallest(schema, schema) == value
