import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.demo.provider.config import Limits
from streams.demo.provider.meter import KeyMeters, Meter, duration

SECOND = 1_000_000_000


@given(
    st.integers(1, 100_000),
    st.floats(0.5, 120),
    st.lists(st.tuples(st.integers(0, 30 * SECOND), st.integers(1, 5000)), min_size=1),
)
def test_a_wait_is_exact_to_the_nanosecond(per_minute, burst_s, steps):
    meter, now = Meter("tokens", per_minute, burst_s, 0), 0
    for gap, amount in steps:
        now += gap
        wait = meter.wait_ns(amount, now)
        if wait is None:
            assert amount > round(per_minute * burst_s / 60)
            continue
        if wait:
            assert meter.wait_ns(amount, now + wait - 1) == 1
        now += wait
        assert meter.wait_ns(amount, now) == 0
        meter.pour(amount, now)
        assert meter.left(now) >= 0


@given(st.integers(60, 6000), st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(1, 60)), max_size=40))
def test_no_window_gets_more_than_burst_and_refill(per_minute, steps):
    meter, now, granted = Meter("requests", per_minute, 60, 0), 0, []
    for gap, amount in steps:
        now += gap
        if meter.wait_ns(amount, now) == 0:
            meter.pour(amount, now)
            granted.append((now, amount))
    for i, (begin, _) in enumerate(granted):
        for j, (end, _) in enumerate(granted[i:], i):
            total = sum(amount for _, amount in granted[i : j + 1])
            assert total * 60 * SECOND <= per_minute * (60 * SECOND + end - begin)


def test_a_refused_request_counts_nowhere():
    meters = KeyMeters(Limits(requests_per_minute=10, tokens_per_minute=100), 0)
    assert meters.grant(90, 10, 0) is None
    refusal = meters.grant(1, 0, 0)
    assert refusal
    assert (refusal.what, refusal.limit, refusal.used, refusal.asked) == ("tokens", 100, 100, 1)
    assert refusal.wait_ns == 600_000_000
    assert meters.open == 1
    assert dict(meters.headers(0))[b"x-ratelimit-remaining-requests"] == b"9"


def test_the_longest_wait_is_told():
    meters = KeyMeters(Limits(requests_per_minute=1, tokens_per_minute=100), 0)
    assert meters.grant(50, 50, 0) is None
    refusal = meters.grant(1, 0, 0)
    assert refusal
    assert refusal.what == "requests"
    assert refusal.wait_ns == 60 * SECOND


def test_a_request_larger_than_the_bucket_is_told_no_time():
    refusal = KeyMeters(Limits(tokens_per_minute=100), 0).grant(101, 0, 0)
    assert refusal
    assert refusal.wait_ns is None


def test_open_requests_are_limited_whatever_time_it_is():
    meters = KeyMeters(Limits(concurrency=2), 0)
    assert [meters.grant(1, 1, t) is None for t in (0, 0, 99 * SECOND)] == [True, True, False]
    meters.end()
    assert meters.grant(1, 1, 0) is None


@pytest.mark.parametrize(
    ("length_ns", "text"),
    [
        (0, b"0ms"),
        (1, b"1ms"),
        (20_000_000, b"20ms"),
        (SECOND, b"1s"),
        (1_500_000_000, b"1.5s"),
        (360 * SECOND, b"6m0s"),
        (3_661 * SECOND, b"1h1m1s"),
    ],
)
def test_durations_are_written_as_openai_does(length_ns, text):
    assert duration(length_ns) == text
