import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.llm.bucket import NeverFits
from streams.llm.headers import Observation, RateHeaders
from streams.llm.key_buckets import KeyBuckets
from streams.llm.limits import NOTHING, KeyLimits, Limit, Part
from streams.llm.usage import Usage

SMALL = Usage(10, 10)


def buckets(*, full: bool = True, follow="down", **limits) -> KeyBuckets:
    return KeyBuckets("main", KeyLimits(**limits), now=0, full=full, follow=follow)


def left(key: KeyBuckets, now: float = 0) -> dict[str, float]:
    return {bucket.quantity: bucket.available for bucket in key.status(now).buckets}


def test_a_key_without_limits_admits_everything():
    key = buckets()
    assert all(key.reserve(Usage(10**9, 10**9), 0) for _ in range(100))


def test_the_scarcest_quantity_decides_when():
    key = buckets(full=False, requests=Limit(60), input_tokens=Limit(600), output_tokens=Limit(60))
    assert key.starts_at(Usage(10, 10), 0) == 10
    assert key.starts_at(Usage(10, 0), 0) == 1
    assert key.starts_at(Usage(100, 0), 0) == 10


def test_input_and_output_count_together_where_the_provider_counts_so():
    key = buckets(tokens=Limit(100))
    assert key.reserve(Usage(60, 40), 0)
    assert key.starts_at(Usage(3, 2), 0) == 3


def test_a_refusal_takes_nothing():
    key = buckets(requests=Limit(60), output_tokens=Limit(60))
    assert key.reserve(Usage(0, 60), 0)
    assert key.reserve(Usage(0, 1), 0) is None
    assert left(key) == {"requests": 59, "output_tokens": 0}


def test_concurrency_frees_only_by_an_end():
    key = buckets(concurrency=2)
    first, second = key.reserve(SMALL, 0), key.reserve(SMALL, 0)
    assert first
    assert second
    assert key.starts_at(SMALL, 1000) == math.inf
    key.settle(first, SMALL, 1)
    assert key.starts_at(SMALL, 1) == 1


def test_what_was_not_used_comes_back_and_what_was_used_beyond_is_debt():
    key = buckets(requests=Limit(60), input_tokens=Limit(100), output_tokens=Limit(100))
    reservation = key.reserve(Usage(50, 100), 0)
    assert reservation
    key.settle(reservation, Usage(120, 30), 0)
    assert left(key) == {"requests": 59, "input_tokens": -20, "output_tokens": 70}


def test_an_unknown_usage_lets_the_estimate_stand():
    key = buckets(tokens=Limit(100))
    reservation = key.reserve(Usage(50, 0), 0)
    assert reservation
    key.settle(reservation, None, 0)
    assert left(key) == {"tokens": 50}


def test_a_call_that_was_never_sent_gives_its_request_back():
    key = buckets(requests=Limit(60), tokens=Limit(100))
    reservation = key.reserve(Usage(50, 0), 0)
    assert reservation
    key.cancel(reservation, 0)
    assert left(key) == {"requests": 60, "tokens": 100}
    assert key.running == 0


def test_a_reservation_ends_once_and_on_its_own_key():
    key, other = buckets(), buckets()
    reservation = key.reserve(SMALL, 0)
    assert reservation
    with pytest.raises(ValueError, match="reservation 1 of key 'main' is not open"):
        other.settle(reservation, SMALL, 0)
    key.settle(reservation, SMALL, 0)
    with pytest.raises(ValueError, match="settled or cancelled once"):
        key.cancel(reservation, 0)


def test_a_call_that_can_never_fit_names_quantity_key_and_bound():
    key = buckets(output_tokens=Limit(1000, burst=200))
    with pytest.raises(NeverFits, match=r"500 output tokens \(key 'main'\) .* holds 200"):
        key.reserve(Usage(0, 500), 0)
    assert key.fits(Usage(0, 500)) is not None
    assert key.fits(Usage(0, 200)) is None


def test_a_refused_key_cools_down_and_the_longest_wait_holds():
    key = buckets()
    key.cool_down(5, now=10)
    key.cool_down(1, now=11)
    assert key.starts_at(SMALL, 12) == 15
    assert key.reserve(SMALL, math.nextafter(15, 0)) is None
    assert key.reserve(SMALL, 15)


def test_a_cool_down_survives_a_clock_that_was_put_back_without_growing():
    key = buckets()
    key.cool_down(5, now=3600)
    assert key.starts_at(SMALL, 0) == 5
    assert key.starts_at(SMALL, 4) == 5


def headers(quantity, *, limit=None, remaining=None) -> RateHeaders:
    return RateHeaders((Observation(quantity, limit, remaining, None),))


def test_headers_lower_the_level_when_others_use_the_key_too():
    key = buckets(requests=Limit(60))
    reservation = key.reserve(SMALL, 0)
    assert reservation
    key.follow(headers("requests", remaining=5), reservation, now=2)
    assert left(key, 2) == {"requests": 7}  # 5, and at most 2 more since the call was made


def test_headers_never_raise_the_level():
    key = buckets(full=False, requests=Limit(60))
    reservation = key.reserve(SMALL, 1)
    assert reservation
    key.follow(headers("requests", remaining=59), reservation, now=1)
    assert left(key, 1) == {"requests": 0}


def test_headers_lower_a_limit_that_was_set_too_high():
    key = buckets(requests=Limit(600))
    reservation = key.reserve(SMALL, 0)
    assert reservation
    key.follow(headers("requests", limit=60), reservation, now=0)
    (bucket,) = key.status(0).buckets
    assert (bucket.per_minute, bucket.capacity, bucket.available) == (60, 60, 60)
    key.follow(headers("requests", limit=6000), reservation, now=0)
    assert key.status(0).buckets[0].per_minute == 600


def test_headers_raise_a_limit_only_where_that_is_allowed():
    key = buckets(follow="both", requests=Limit(60))
    reservation = key.reserve(SMALL, 0)
    assert reservation
    key.follow(headers("requests", limit=120), reservation, now=0)
    assert key.status(0).buckets[0].per_minute == 120


def test_headers_can_be_ignored():
    key = buckets(follow="off", requests=Limit(60))
    reservation = key.reserve(SMALL, 0)
    assert reservation
    key.follow(headers("requests", limit=6, remaining=0), reservation, now=0)
    assert left(key) == {"requests": 59}


def test_limits_change_live_and_a_new_one_starts_empty():
    key = buckets(requests=Limit(60))
    reservation = key.reserve(Usage(10, 0), 0)
    assert reservation
    key.change(KeyLimits(requests=Limit(30), tokens=Limit(600)), 0)
    assert left(key) == {"requests": 30, "tokens": 0}
    key.settle(reservation, Usage(1, 0), 0)  # taken before there was a bucket for tokens
    assert left(key) == {"requests": 30, "tokens": 0}


def test_status_is_what_an_operator_asks_for():
    key = buckets(requests=Limit(60), concurrency=3)
    key.reserve(SMALL, 0)
    key.cool_down(4, 0)
    status = key.status(1)
    assert (status.key_name, status.running, status.concurrency, status.cools_for_s) == ("main", 1, 3, 3)


@pytest.mark.parametrize("value", [0, -5, math.nan, math.inf])
def test_limits_of_zero_or_below_are_refused(value):
    with pytest.raises(ValueError, match="per_minute must be above 0"):
        Limit(value)
    with pytest.raises(ValueError, match="burst must be above 0"):
        Limit(1, burst=value)


def test_a_concurrency_below_one_is_refused():
    with pytest.raises(ValueError, match="concurrency must be at least 1, got 0"):
        KeyLimits(concurrency=0)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=30),
    st.floats(0, 2e9),
)
def test_a_call_starts_exactly_when_it_was_told_to(calls, start):
    key = KeyBuckets(
        "main",
        KeyLimits(requests=Limit(20, burst=2), tokens=Limit(500, burst=250), output_tokens=Limit(300)),
        now=start,
    )
    now = start
    for gap, inputs, outputs in calls:
        now += gap
        estimate = Usage(inputs, outputs)
        ready = key.starts_at(estimate, now)
        if ready > now:
            assert key.reserve(estimate, math.nextafter(ready, -math.inf)) is None
        reservation = key.reserve(estimate, ready)
        assert reservation is not None
        now = ready
        key.settle(reservation, Usage(inputs // 2, outputs), now)
        assert all(bucket.available <= bucket.capacity for bucket in key.status(now).buckets)


def test_a_part_refills_and_holds_its_share_and_keeps_its_level():
    key = buckets(requests=Limit(60, burst=10), concurrency=20)
    key.allot(Part(0.5, 0.2, 4), 0)
    assert left(key) == {"requests": 2}
    assert left(key, 100) == {"requests": 2}
    assert [key.reserve(SMALL, 100) is not None for _ in range(3)] == [True, True, False]
    assert key.starts_at(SMALL, 100) == 102  # one in two seconds
    key.allot(Part(1.0, 1.0, 20), 101)
    assert left(key, 101) == {"requests": 0.5}  # what a larger part can hold more has to come
    assert left(key, 102) == {"requests": 1.5}


def test_calls_at_once_are_those_of_the_part_and_of_the_limit():
    key = buckets(concurrency=3)
    for slots, most in ((2, 2), (5, 3), (0, 0)):
        key.allot(Part(1.0, 1.0, slots), 0)
        assert (key.has_slot, key.status(0).concurrency) == (most > 0, most)


def test_a_call_that_exceeds_a_part_waits_for_a_larger_one_but_one_that_exceeds_the_limit_never_fits():
    key = buckets(tokens=Limit(6000, burst=1000))
    key.allot(Part(0.25, 0.25), 0)
    assert key.starts_at(Usage(250, 0), 0) == 0
    assert key.starts_at(Usage(251, 0), 0) == math.inf
    assert key.needs(Usage(251, 0)) == 0.251
    assert key.fits(Usage(1000, 0)) is None
    with pytest.raises(NeverFits, match="holds 1,000"):
        key.starts_at(Usage(1001, 0), 0)


def test_without_a_part_nothing_is_left_and_nothing_starts():
    key = buckets(tokens=Limit(6000), concurrency=10)
    key.allot(NOTHING, 0)
    assert left(key)["tokens"] <= 0
    assert key.starts_at(SMALL, 1e6) == math.inf
    key.allot(Part(1.0, 1.0, 10), 10)
    assert left(key, 10)["tokens"] < 1  # it starts empty


def test_what_a_provider_states_holds_for_the_whole_and_the_part_is_taken_of_it():
    key = buckets(requests=Limit(60, burst=60))
    key.allot(Part(0.5, 0.5), 0)
    reservation = key.reserve(SMALL, 0)
    assert reservation
    key.follow(RateHeaders((Observation("requests", 30, 30, None),)), reservation, 0)
    (bucket,) = key.status(0).buckets
    assert (bucket.capacity, bucket.per_minute) == (15, 15)
    assert key.fits(Usage()) is None


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1)), max_size=60))
def test_parts_together_never_let_through_more_than_the_whole(changes):
    """One process's part grows by what the other's has shrunk; both take all they can."""
    first, second = (buckets(requests=Limit(600, burst=20)) for _ in range(2))
    now, taken, whole = 0.0, 0, 20.0
    first.allot(Part(1.0, 1.0), now)
    second.allot(NOTHING, now)
    for pause_s, share in changes:
        now, whole = now + pause_s, min(20.0, whole + 10 * pause_s)
        for key in (first, second):
            while key.reserve(SMALL, now):
                taken += 1
                whole -= 1
        assert whole > -1e-6
        for key, part in ((first, share), (second, 1 - share)):
            key.allot(Part(part, part) if part else NOTHING, now)
