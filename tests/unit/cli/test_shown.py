"""What people read about waiting invocations, results and dead letters."""

from dataclasses import replace
from typing import Any

import pytest

from streams.cli.dead_letters import problem_with
from streams.cli.inspection import reasons
from streams.cli.results import _line
from streams.cli.shown import span
from streams.cli.target import Target
from streams.records.control import DeadLetter
from streams.records.invocations import Result
from streams.records.topics import Catalogue
from streams.settings import Settings

TARGET = Target(Settings(), None, Catalogue("shop"))
LETTER = DeadLetter("shop.invocations", 1, 7, 0, b"greet/bob", b"\0", "CodecError", "no record", 0, "shard 1")
THERE = {"shop.invocations": 4, "shop.state-deltas": 4}


def running(*waits: dict[str, Any]) -> dict[str, Any]:
    return {"invocation": "greet/bob/1", "phase": "running", "waits_for": list(waits)}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (0.018, "18 ms"), (2.34, "2.3 s"), (75, "1 min 15 s"), (7_260, "2 h 1 min")]
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("wait", "sentence"),
    [
        ({"kind": "tool", "name": "crm", "step": 2, "since_s": 3.0}, "Waits for tool 'crm' (step 2) for 3.0 s."),
        (
            {
                "kind": "tool",
                "name": "crm",
                "step": 2,
                "since_s": 3.0,
                "notice": "the worker has no tool 'crm'; deploy it",
                "falls_back_in_s": 62.0,
            },
            "Waits for tool 'crm' (step 2) for 3.0 s. Its worker says: the worker has no tool 'crm'; deploy it. "
            "Its fallback applies in 1 min 2 s.",
        ),
        ({"kind": "llm", "name": "fast", "step": 1, "since_s": 90}, "Waits for model 'fast' (step 1) for 1 min 30 s."),
        ({"kind": "shared-read", "name": "x", "step": 1}, "Waits for shared-read 'x' (step 1)."),
        ({"kind": "timer", "step": 4, "in_s": 12.0}, "Waits for a timer (step 4), 12.0 s more."),
        ({"kind": "event", "wake_in_s": None}, "Rests until something comes for it."),
        ({"kind": "not-before", "in_s": 5.0}, "Waits for the time it was submitted for, in 5.0 s."),
    ],
)
def test_a_reason_is_a_sentence(wait: dict[str, Any], sentence: str) -> None:
    assert reasons(running(wait)) == [sentence]


def test_who_waits_for_its_turn_learns_its_place() -> None:
    (line,) = reasons(running({"kind": "mailbox", "name": "greet/bob", "position": 3}))
    assert "this is number 3" in line


def test_a_parked_invocation_names_the_commands_that_help() -> None:
    (line,) = reasons(running({"kind": "operator", "name": "NonDeterminism: step 2"}))
    assert "NonDeterminism: step 2" in line
    assert "streams resume, restart or fail greet/bob/1 --reason" in line


def test_a_finished_invocation_waits_for_nothing() -> None:
    assert reasons({**running(), "phase": "finished"}) == []
    assert len(reasons(running())) == 1


def test_a_result_is_one_line() -> None:
    result = Result("greet", "bob", "1", "failed", error_type="Boom", error_message="it [broke]", degraded=True)
    line = _line(result)
    assert "greet/bob/1" in line
    assert r"Boom: it \[broke]" in line
    assert "degraded" in line
    assert _line(replace(result, error_type="", value=b"x" * 1_000)).endswith("...")


@pytest.mark.parametrize(
    ("letter", "problem"),
    [
        (LETTER, ""),
        (replace(LETTER, topic="other.invocations"), "is not a topic of 'shop'"),
        (replace(LETTER, topic="shop.state-deltas"), "an old value must not come after a newer one"),
        (replace(LETTER, partition=9), "has no partition 9"),
        (replace(LETTER, value=None), "its bytes were not kept"),
    ],
)
def test_only_work_that_was_kept_is_sent_again(letter: DeadLetter, problem: str) -> None:
    found = problem_with(TARGET, letter, THERE)
    assert problem in found
    assert bool(found) == bool(problem)
