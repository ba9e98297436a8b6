import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.llm.bucket import NeverFits, TokenBucket

amounts = st.floats(0.001, 100)
gaps = st.floats(0, 30)


def test_a_full_bucket_gives_its_burst_and_no_more():
    bucket = TokenBucket(10, 1, now=0)
    assert [bucket.reserve(5, 0), bucket.reserve(5, 0), bucket.reserve(1, 0)] == [True, True, False]


def test_it_refills_continuously():
    bucket = TokenBucket(10, 2, now=0, level=0)
    assert [bucket.available(t) for t in (0, 0.25, 2, 100)] == [0, 0.5, 4, 10]


def test_debt_is_refilled_before_anything_is_given():
    bucket = TokenBucket(10, 1, now=0, level=0)
    bucket.charge(5, 0)
    assert bucket.debt(0) == 5
    assert bucket.ready_at(1, 0) == 6
    assert bucket.debt(6) == 0


def test_an_amount_over_the_capacity_is_refused_with_the_bound():
    bucket = TokenBucket(100, 1, now=0, what="input tokens")
    with pytest.raises(NeverFits, match=r"1,000 input tokens can never be taken at once, the bucket holds 100"):
        bucket.ready_at(1000, 0)
    with pytest.raises(ValueError, match="raise the limit or its burst"):
        bucket.reserve(1000, 0)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_a_bucket_without_capacity_or_rate_is_refused(value):
    with pytest.raises(ValueError, match="capacity of a token bucket must be above 0"):
        TokenBucket(value, 1, now=0)
    with pytest.raises(ValueError, match="rate of a token bucket must be above 0"):
        TokenBucket(1, value, now=0)


@given(st.floats(100, 1e6), st.floats(1e-3, 1e5), st.lists(st.tuples(gaps, amounts), min_size=1), st.floats(0, 2e9))
def test_ready_at_is_exact(capacity, rate, steps, start):
    bucket = TokenBucket(capacity, rate, now=start)
    now = start
    for gap, amount in steps:
        now += gap
        ready = bucket.ready_at(amount, now)
        assert ready >= now
        if ready > now:
            assert not bucket.reserve(amount, math.nextafter(ready, -math.inf))
            now = ready
        assert bucket.reserve(amount, ready)


@given(st.floats(100, 1000), st.floats(0.1, 1000), st.lists(st.tuples(gaps, amounts)))
def test_no_window_admits_more_than_burst_and_refill(capacity, rate, steps):
    bucket = TokenBucket(capacity, rate, now=0)
    now, admitted = 0.0, []
    for gap, amount in steps:
        now += gap
        if bucket.reserve(amount, now):
            admitted.append((now, amount))
        assert bucket.available(now) <= capacity
    for i, (begin, _) in enumerate(admitted):
        total = 0.0
        for end, amount in admitted[i:]:
            total += amount
            assert total <= capacity + rate * (end - begin) + 1e-6


@given(st.lists(st.tuples(st.floats(-0.5, 1), amounts)))
def test_a_clock_read_out_of_order_mints_nothing(steps):
    bucket = TokenBucket(100, 10, now=0)
    now, latest, total = 0.0, 0.0, 0.0
    for gap, amount in steps:
        now = max(now + gap, latest - 5)
        latest = max(latest, now)
        if bucket.reserve(amount, now):
            total += amount
        assert total <= 100 + 10 * latest + 1e-6


def test_a_clock_that_was_put_back_does_not_stop_the_bucket():
    bucket = TokenBucket(10, 1, now=3600, level=4)
    assert bucket.available(0) == 4
    assert bucket.available(6) == 10


def test_a_clock_that_jumps_ahead_fills_the_bucket_once():
    bucket = TokenBucket(10, 1, now=0, level=0)
    assert bucket.reserve(10, 1e9)
    assert not bucket.reserve(1, 1e9)


def test_a_refund_gives_back_what_the_bucket_had_room_for():
    bucket = TokenBucket(10, 1, now=0)
    assert bucket.reserve(8, 0)
    assert bucket.refund(5, 0, since=bucket.mark) == 5
    assert bucket.available(0) == 7


def test_a_refund_never_returns_refill_that_would_have_overflown():
    # The provider counted 5 at once, was full again after 5 s, and allows 10 at 9.9 s, not 15.
    bucket = TokenBucket(10, 1, now=0)
    assert bucket.reserve(10, 0)
    mark = bucket.mark
    assert bucket.reserve(9.9, 9.9)
    assert bucket.refund(5, 9.9, since=mark) == pytest.approx(0.1)


def test_a_correction_only_goes_down():
    bucket = TokenBucket(10, 1, now=0)
    bucket.lower(3, 0)
    bucket.lower(7, 0)
    assert bucket.available(0) == 3


def test_a_resized_bucket_keeps_its_level_where_it_fits():
    bucket = TokenBucket(10, 1, now=0, level=6)
    bucket.resize(20, 2, 0)
    assert bucket.available(1) == 8
    bucket.resize(5, 1, 1)
    assert bucket.available(1) == 5


class ProviderBucket:
    """What the provider does, in exact arithmetic: charges what a request really uses, when it comes in."""

    def __init__(self, capacity: float, rate: float) -> None:
        self.capacity = self.level = Fraction(capacity)
        self.rate, self.at = Fraction(rate), Fraction(0)

    def take(self, amount: float, now: float) -> Fraction:
        at = Fraction(now)
        self.level = min(self.capacity, self.level + (at - self.at) * self.rate) - Fraction(amount)
        self.at = at
        return self.level


@given(
    capacity=st.floats(100, 200),
    rate=st.floats(0.5, 50),
    steps=st.lists(
        st.tuples(
            st.floats(0, 5), st.sampled_from(["reserve", "settle"]), amounts, st.floats(0, 1), st.integers(0, 20)
        ),
        max_size=60,
    ),
)
def test_who_reserves_enough_and_refunds_the_rest_is_never_refused_by_the_provider(capacity, rate, steps):
    bucket, provider = TokenBucket(capacity, rate, now=0), ProviderBucket(capacity, rate)
    now, running = 0.0, []
    for gap, act, amount, used_part, which in steps:
        now += gap
        if act == "reserve":
            if bucket.reserve(amount, now):
                assert provider.take(amount * used_part, now) >= -1e-6
                running.append((bucket.mark, amount * (1 - used_part)))
        elif running:
            mark, unused = running.pop(which % len(running))
            bucket.refund(unused, now, since=mark)


def test_a_drained_burst_gets_its_refunds_back_almost_in_full():
    bucket = TokenBucket(100_000, 1, now=0)
    marks = []
    for _ in range(10_000):
        assert bucket.reserve(10, 0)
        marks.append(bucket.mark)
    given_back = sum(bucket.refund(9, 0, since=mark) for mark in marks)
    assert given_back > 0.95 * 90_000
