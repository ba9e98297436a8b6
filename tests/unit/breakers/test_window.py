from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.breakers.window import FAILED, SLOW, CountWindow

codes = st.sampled_from([0, FAILED, SLOW, FAILED | SLOW])


@given(st.integers(1, 20), st.lists(codes, max_size=60))
def test_sums_equal_those_of_the_latest_calls(size, outcomes):
    window, latest = CountWindow(size), deque[int](maxlen=size)
    for code in outcomes:
        window.add(code)
        latest.append(code)
    assert window.calls == len(latest)
    assert window.failures == sum(code & FAILED for code in latest)
    assert window.slow == sum(code >> 1 for code in latest)


@given(st.integers(1, 50), st.data())
def test_sums_of_a_reporter_are_counted_exactly_while_they_fit(size, data):
    calls = data.draw(st.integers(0, size))
    failures, slow = data.draw(st.integers(0, calls)), data.draw(st.integers(0, calls))
    window = CountWindow(size)
    window.add_many(calls, failures, slow)
    assert (window.calls, window.failures, window.slow) == (calls, failures, slow)


def test_sums_beyond_the_window_keep_their_rate():
    window = CountWindow(10)
    window.add_many(1000, 300, 100)
    assert (window.failure_rate, window.slow_rate) == (0.3, 0.1)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window of 0 calls"):
        CountWindow(0)
