"""What an operator is told about the wait: the scarcest limit decides."""

import math
from dataclasses import replace

import pytest

from streams.llm.expected_wait import expected_wait_s
from streams.llm.key_buckets import KeyBuckets, KeyStatus
from streams.llm.limits import KeyLimits, Limit
from streams.llm.usage import Usage


def key(running: int = 0, *, full: bool = False, cools_for_s: float = 0.0, **limits: float | int) -> KeyStatus:
    concurrency = limits.pop("concurrency", None)
    made = KeyLimits(
        **{name: Limit(value) for name, value in limits.items()},
        concurrency=None if concurrency is None else int(concurrency),
    )
    buckets = KeyBuckets("k", made, 0.0, full=full)
    for _ in range(running):
        assert buckets.reserve(Usage(), 0.0)
    if cools_for_s:
        buckets.cool_down(cools_for_s, 0.0)
    return buckets.status(0.0)


def test_nothing_is_waited_for_while_a_key_has_room():
    assert expected_wait_s(0, [], [key(full=True, requests=60)], 5.0) == 0.0
    assert expected_wait_s(0, [], [key(concurrency=2)], 5.0) == 0.0


def test_what_is_held_goes_out_at_the_refill_of_all_keys_together():
    assert expected_wait_s(119, [], [key(requests=60), key(requests=60)], 1.0) == pytest.approx(60.0)


def test_the_scarcest_quantity_decides():
    held = [Usage(10, 90)] * 3
    one = key(requests=600, tokens=600)
    assert expected_wait_s(5, held, [one], 1.0) == pytest.approx(6 * 100 / 10)


def test_a_debt_is_waited_for_too():
    buckets = KeyBuckets("k", KeyLimits(tokens=Limit(60)), 0.0)
    reservation = buckets.reserve(Usage(0, 60), 0.0)
    assert reservation is not None
    buckets.settle(reservation, Usage(0, 90), 0.0)
    assert expected_wait_s(0, [], [buckets.status(0.0)], 1.0) == pytest.approx(30.0)


def test_where_calls_at_once_are_the_limit_the_mean_call_decides():
    assert expected_wait_s(40, [], [key(running=20, concurrency=20)], 2.0) == pytest.approx(41 / 20 * 2.0)


def test_a_key_without_the_limit_takes_what_the_others_cannot():
    assert expected_wait_s(1_000, [], [key(requests=1), key()], 1.0) == 0.0


def test_keys_that_cool_down_are_waited_for():
    assert expected_wait_s(0, [], [key(cools_for_s=7.0), key(cools_for_s=4.0)], 1.0) == 4.0
    assert expected_wait_s(0, [], [], 1.0) == math.inf


def test_a_key_that_is_not_accepted_sends_nothing():
    used, out = key(requests=60), replace(key(requests=60), out_for_s=300.0)
    assert expected_wait_s(119, [], [used, out], 1.0) == pytest.approx(120.0)
    assert expected_wait_s(0, [], [out], 1.0) == 300.0
