"""What anyone may write to a shard: it is taken, or set aside with a reason, and never ends the shard."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from streams import App, Context
from streams.broker.port import LogRecord
from streams.errors import CodecError, InvalidInput
from streams.records import RECORDS, encode, headers
from streams.records.asyncapi import MESSAGES
from streams.records.invocations import Invocation
from streams.shards.inputs import PUBLIC, to_event
from tests.unit.shards.shard import START_S, Shard

app = App("inputs")


class Ask(BaseModel):
    key: str


class Memory(BaseModel):
    asked: int = 0


@app.agent(key="key", state=Memory)
async def greet(ctx: Context[Memory], ask: Ask) -> str:
    ctx.state.asked += 1
    return ask.key


names = st.sampled_from(["greet", "greet/a", "greet/a/k", "shared/risk", "shared/risk/a", "a", "", "asked"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | names
longs = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2).map(lambda n: int(START_S * 1000) + n * 10**6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
FIELDS = ("key", "idempotency_key", "tenant", "priority", "timeout_s", "not_before_ms", "strange")
bodies = st.fixed_dictionaries(
    {"agent": st.just("greet") | json_values, "input": st.just({"key": "a"}) | json_values},
    optional=dict.fromkeys(FIELDS, json_values),
)


def of(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of a field's type, likely and unlikely ones."""
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: texts, int: longs, float: st.floats(), bool: st.booleans(),
        bytes: st.binary(max_size=20) | json_values.map(orjson.dumps),
        dict[str, int] | None: st.none() | st.dictionaries(texts, longs, max_size=2),
        bytes | None: st.none() | st.just(b"1") | st.binary(max_size=20),
        tuple[str, ...]: st.lists(texts, max_size=2).map(tuple),
        dict[str, int]: st.dictionaries(texts, longs, max_size=2),
    }  # fmt: skip
    return plain[hint]


def records(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: of(hints[field.name]) for field in dataclasses.fields(kind)})


def read(value: bytes, head: headers.Headers = ()) -> LogRecord:
    return LogRecord("ns.invocations", 0, 7, int(START_S * 1000), b"greet/a", value, head)


def take(kind: str, record: LogRecord) -> None:
    """Do what a shard does: whatever is no event is set aside, and an event is no reason to end."""
    shard = Shard(app)
    try:
        event = to_event(kind, record)
    except (CodecError, InvalidInput):
        return
    shard.engine.step([event], shard.now)
    for at in range(1, 4):
        shard.engine.step([], shard.now + at * 10**at)


@settings(max_examples=300, deadline=None)
@given(body=bodies | json_values)
def test_whatever_json_comes_is_taken_or_set_aside(body: Any) -> None:
    take("invocations", read(orjson.dumps(body), (("content-type", b"application/json"),)))


@pytest.mark.parametrize(
    ("kind", "message"), [(kind, message) for kind in sorted(PUBLIC) for message in MESSAGES[kind]],
    ids=lambda it: it if isinstance(it, str) else it.__name__,
)  # fmt: skip
def test_whatever_record_comes_is_taken_or_set_aside(kind: str, message: type[Any]) -> None:
    @settings(max_examples=150, deadline=None)
    @given(record=records(message))
    def check(record: Any) -> None:
        take(kind, read(encode(record)))

    check()


def test_records_of_other_topics_are_set_aside() -> None:
    for kind in sorted(PUBLIC):
        for message in RECORDS:
            if message not in MESSAGES[kind]:
                with pytest.raises(CodecError, match=f"is a {message.__name__}; {kind} takes"):
                    to_event(kind, read(encode(_some(message))))


def _some(message: type[Any]) -> Any:
    empty: dict[Any, Any] = {str: "", int: 0, float: 0.0, bool: False, bytes: b"", tuple[str, ...]: ()}
    hints = get_type_hints(message)
    return message(**{f.name: empty.get(hints[f.name]) for f in dataclasses.fields(message)
                      if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING})  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"timeout_s": 1e300}, "timeout_s 1e+300 is not a number of seconds above 0 and up to"),
        ({"timeout_s": 0}, "timeout_s 0 is not"),
        ({"not_before_ms": "soon"}, "not_before_ms 'soon' is not a number of milliseconds"),
        ({"not_before_ms": 2**63}, "not_before_ms 9223372036854775808 is not"),
        ({"idempotency_key": "a\0b"}, "control character"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields: dict[str, Any], problem: str) -> None:
    body = {"agent": "greet", "key": "a", "input": {"key": "a"}, **fields}
    with pytest.raises(InvalidInput) as caught:
        to_event("invocations", read(orjson.dumps(body), (("content-type", b"application/json"),)))
    assert problem in str(caught.value)


def test_nobody_can_make_an_agent_the_parent_of_what_he_sends() -> None:
    forged = Invocation("greet", "a", "k", b"{}", 0, 2**60, parent="other/b/k", parent_awaits=True)
    with pytest.raises(InvalidInput, match="has no parent, but this one names 'other/b/k'"):
        to_event("invocations", read(encode(forged)))
