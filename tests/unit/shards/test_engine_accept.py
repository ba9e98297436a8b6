"""What becomes of an invocation that arrives: run, repeated, refused, deferred, each once."""

import pytest
from pydantic import BaseModel, field_validator

from streams import App, Context
from streams.records import decode_as
from streams.records.invocations import Result
from streams.records.steps import ToolResult
from tests.unit.shards.shard import START_S, Shard

app = App("accept")


class Ask(BaseModel):
    key: str
    text: str = ""

    @field_validator("text")
    @classmethod
    def no_surprise(cls, text: str) -> str:
        if text == "surprise":
            raise KeyError("a validator of the user's may raise anything")
        return text


@app.tool(timeout=5, effect="read", fallback=0)
async def look(text: str) -> int:
    raise NotImplementedError


@app.agent(key="key")
async def patient(ctx: Context[None], ask: Ask) -> int:
    return await look(ask.text)


@app.agent(key="key")
async def quick(ctx: Context[None], ask: Ask) -> str:
    return ask.text


@app.agent(key="key")
async def wrong(ctx: Context[None], ask: Ask) -> int:
    return ask.text  # type: ignore[return-value]


@app.agent(key="key")
async def large(ctx: Context[None], ask: Ask) -> str:
    return "x" * 2_000


@app.agent(key="key")
async def leaves(ctx: Context[None], ask: Ask) -> str:
    raise SystemExit(3)


def test_a_duplicate_while_running_changes_nothing():
    shard = Shard(app)
    shard.invoke(patient, Ask(key="a"))
    shard.invoke(patient, Ask(key="a"))
    assert len(shard.calls) == 1
    shard.answer(shard.calls[0], b"7")
    assert [(r.value, r.repeated) for r in shard.results] == [(b"7", False)]


def test_a_duplicate_of_a_finished_one_gets_its_result_again_marked_so():
    shard = Shard(app)
    shard.invoke(quick, Ask(key="a", text="one"))
    shard.restart()
    shard.invoke(quick, Ask(key="a", text="one"))
    assert [(r.value, r.repeated) for r in shard.results] == [(b'"one"', False), (b'"one"', True)]


def test_a_duplicate_after_the_window_is_run_again():
    shard = Shard(app, dedup_s=100.0)
    shard.invoke(quick, Ask(key="a", text="one"))
    shard.wake(101)
    shard.invoke(quick, Ask(key="a", text="one"))
    assert [r.repeated for r in shard.results] == [False, False]


def test_the_window_ends_in_a_shard_where_nothing_else_happens():
    shard = Shard(app, dedup_s=100.0)
    shard.invoke(quick, Ask(key="a"))
    wake = shard.engine.next_wake
    assert wake is not None
    assert START_S + 100 <= wake <= START_S + 200
    shard.wake(wake - shard.now)
    assert set(shard.journal.latest) == {b"\x00cursor"}


def test_another_input_under_the_same_id_is_a_conflict_while_running_and_after():
    shard = Shard(app)
    shard.invoke(patient, Ask(key="a"))
    shard.invoke(patient, Ask(key="a", text="other"))
    shard.answer(shard.calls[0], b"7")
    shard.invoke(patient, Ask(key="a", text="other"))
    assert [r.error_type for r in shard.results] == ["Conflict", "", "Conflict"]
    assert shard.results[0].input_digest != shard.results[1].input_digest


def test_a_full_mailbox_defers_and_leaves_no_mark():
    shard = Shard(app, max_mailbox=1, defer_s=2.0)
    for number in range(3):
        shard.invoke(patient, Ask(key="a"), f"k{number}")
    assert [(r.status, r.retry_after_s) for r in shard.results] == [("deferred", 2.0)]
    shard.answer(shard.calls[0])
    shard.invoke(patient, Ask(key="a"), "k2")
    shard.answer(shard.calls[1])
    shard.answer(shard.calls[2])
    assert [r.status for r in shard.results] == ["deferred", "succeeded", "succeeded", "succeeded"]


@pytest.mark.parametrize(
    ("agent", "key", "data", "error", "field"),
    [
        ("nobody", "a", b"{}", "UnknownName", ""),
        ("quick", "a", b'{"text": 3}', "InvalidInput", "key"),
        ("quick", "a", b'{"key": "a", "text": "surprise"}', "KeyError", ""),
        ("quick", "b", b'{"key": "a"}', "InvalidInput", ""),
        ("quick", "a", b"not json", "InvalidInput", ""),
        ("quick", "a", b'{"key": "a", "text": "' + b"x" * 3_000 + b'"}', "PayloadTooLarge", ""),
    ],
)
def test_what_does_not_fit_fails_with_its_name_and_field(agent, key, data, error, field):
    shard = Shard(app, max_payload_bytes=1_000)
    shard.signal(f"{agent}/{key}/k1", "early")
    shard.arrive(shard.invocation(agent, key, data), "invocations")
    assert [(r.status, r.error_type, r.error_field) for r in shard.results] == [("failed", error, field)]
    assert not shard.engine.early
    assert not shard.engine.live


@pytest.mark.parametrize(
    ("agent", "error"), [(wrong, "HandlerError"), (large, "PayloadTooLarge"), (leaves, "SystemExit")]
)
def test_what_a_handler_must_not_do_is_a_named_failure(agent, error):
    shard = Shard(app, max_payload_bytes=1_000)
    shard.invoke(agent, Ask(key="a", text="text"))
    assert [(r.status, r.error_type) for r in shard.results] == [("failed", error)]


def test_a_deadline_ends_what_waits_to_the_millisecond():
    shard = Shard(app)
    for number in range(200):
        shard.invoke(patient, Ask(key=f"{number}"), deadline_ms=int(START_S * 1000) + 1_000 + number)
    for number in range(200):
        shard.now = (int(START_S * 1000) + 1_000 + number) / 1000
        shard.wake()
        assert len(shard.results) == number + 1
    assert {r.error_type for r in shard.results} == {"DeadlineExceeded"}
    assert shard.engine.next_wake is None or shard.engine.next_wake > shard.now + 1_000


def test_one_that_arrives_after_its_deadline_is_refused():
    shard = Shard(app)
    shard.invoke(quick, Ask(key="a"), deadline_ms=int(START_S * 1000))
    assert [r.error_type for r in shard.results] == ["DeadlineExceeded"]


def test_not_before_is_kept_over_a_restart():
    shard = Shard(app)
    shard.invoke(quick, Ask(key="a", text="late"), not_before_ms=int(START_S * 1000) + 5_000)
    shard.wake(4)
    shard.restart()
    assert not shard.results
    shard.wake(1)
    assert [r.value for r in shard.results] == [b'"late"']


def test_a_record_for_another_partition_is_forwarded():
    shard = Shard(app)
    shard.engine.partition_of = lambda _: 3
    shard.invoke(quick, Ask(key="a"))
    assert [(w.kind, w.partition) for w in shard.writes if w.kind != "journal"] == [("invocations", 3)]
    assert not shard.engine.live


def test_a_result_for_nobody_is_ignored():
    shard = Shard(app)
    shard.arrive(ToolResult("quick/a/k9", 0, 1, "look", "ok", b"1"))
    assert shard.engine.counters.ignored == 1


def test_a_marker_keeps_the_result():
    shard = Shard(app)
    identity = shard.invoke(quick, Ask(key="a", text="one"))
    marker = shard.engine.markers.get(identity)
    assert marker is not None
    assert decode_as(Result, marker.result).value == b'"one"'
