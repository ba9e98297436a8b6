from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.breakers.policy import BreakerPolicy
from streams.breakers.window import BUCKETS, FAILED, OK, SLOW, CountWindow, TimeWindow, window_of

codes = st.sampled_from([OK, FAILED, SLOW, FAILED | SLOW])


@given(st.integers(1, 20), st.lists(codes, max_size=60))
def test_sums_equal_those_of_the_latest_calls(size, outcomes):
    window, latest = CountWindow(size), deque[int](maxlen=size)
    for code in outcomes:
        window.add(code, 0)
        latest.append(code)
    assert window.calls == len(latest)
    assert window.failures == sum(code & FAILED for code in latest)
    assert window.slow == sum(code >> 1 for code in latest)


@given(st.integers(1, 50), st.data())
def test_sums_of_a_reporter_are_counted_exactly_while_they_fit(size, data):
    calls = data.draw(st.integers(0, size))
    failures, slow = data.draw(st.integers(0, calls)), data.draw(st.integers(0, calls))
    for window in (CountWindow(size), TimeWindow(1)):
        window.add_many(calls, failures, slow, 0)
        assert (window.calls, window.failures, window.slow) == (calls, failures, slow)


def test_sums_beyond_the_window_keep_their_rate():
    window = CountWindow(10)
    window.add_many(1000, 300, 100, 0)
    assert (window.failure_rate, window.slow_rate) == (0.3, 0.1)


@given(st.lists(st.tuples(st.integers(0, 3_000), codes), max_size=80))
def test_a_window_by_time_holds_the_calls_of_its_span(history):
    """All of the latest 19 twentieths of it, and none that is older than the whole."""
    window, now, seen = TimeWindow(2), 0, list[tuple[int, int]]()
    for passed, code in history:
        now += passed
        window.add(code, now)
        seen.append((now, code))
    bucket = 2_000 // BUCKETS
    inside = [code for at, code in seen if at // bucket > now // bucket - BUCKETS]
    assert {code for at, code in seen if now - at <= 1_900} <= set(inside)
    assert all(now - at < 2_000 for at, code in seen if at // bucket > now // bucket - BUCKETS)
    assert window.calls == len(inside)
    assert window.failures == sum(code & FAILED for code in inside)
    assert window.slow == sum(code >> 1 for code in inside)


def test_a_clock_that_goes_back_counts_into_the_newest_sums():
    window = TimeWindow(2)
    window.add(FAILED, 10_000)
    window.add(FAILED, 3_000)
    assert (window.calls, window.failures) == (2, 2)
    window.add(OK, 12_500)
    assert (window.calls, window.failures) == (1, 0)


def test_a_success_says_when_others_have_left():
    window = TimeWindow(2)
    assert not window.add(OK, 0)
    assert not window.add(OK, 1_000)
    assert window.add(OK, 2_000)


def test_the_policy_says_which_window():
    assert isinstance(window_of(BreakerPolicy()), CountWindow)
    assert isinstance(window_of(BreakerPolicy(window_s=30)), TimeWindow)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window of 0 calls"):
        CountWindow(0)
    with pytest.raises(ValueError, match="window of 0 s"):
        TimeWindow(0)
