import pytest

from streams.backpressure import BackpressurePolicy, LagMeter
from streams.backpressure.signal import signal_of

POLICY = BackpressurePolicy(target_records=100, slow_records=500, close_records=1_000, ceiling_s=120)


def steady(arrival: int, drain: int, *, seconds: int = 60, start: int = 0) -> LagMeter:
    meter = LagMeter(half_life_s=2)
    for t in range(seconds + 1):
        meter.sample(float(t), {0: drain * t}, {0: start + arrival * t})
    return meter


def test_rates_settle_at_the_true_ones():
    meter = steady(arrival=50, drain=30)
    assert meter.arrival_per_s == pytest.approx(50, rel=0.01)
    assert meter.drain_per_s == pytest.approx(30, rel=0.01)
    assert meter.records == 20 * 60


def test_the_age_is_that_of_the_oldest_unread_record():
    meter = LagMeter()
    for t in range(11):
        meter.sample(float(t), {0: 25}, {0: 10 * t})
    # Record 25 was written between the samples at 2 s (end 20) and 3 s (end 30).
    assert meter.age_s == 8.0


def test_nothing_unread_has_no_age():
    assert steady(arrival=10, drain=10).age_s == 0.0


def test_a_dead_consumer_ages_though_nothing_arrives():
    meter = LagMeter()
    for t in range(6):
        meter.sample(float(t), {0: 0}, {0: 5})
    assert (meter.records, meter.age_s, meter.drain_per_s) == (5, 5.0, 0.0)


def test_a_position_that_goes_back_is_lag_and_no_negative_rate():
    meter = LagMeter()
    meter.sample(0.0, {0: 100}, {0: 100})
    meter.sample(1.0, {0: 40}, {0: 100})
    assert (meter.records, meter.drain_per_s) == (60, 0.0)


def test_a_clock_that_stands_still_is_ignored():
    meter = LagMeter()
    meter.sample(1.0, {0: 0}, {0: 10})
    meter.sample(1.0, {0: 0}, {0: 99})
    assert meter.records == 10


def test_a_closed_lane_answers_the_drain_time_although_producers_still_push():
    meter = steady(arrival=40, drain=30, start=2_000)
    backlog = meter.records
    signal = signal_of("invocations", "closed", meter, 5, POLICY)
    assert signal.retry_after_s == pytest.approx((backlog - 100) / 30, rel=0.02)
    assert (signal.lag_records, signal.at_ms, signal.level) == (backlog, 5, "closed")


def test_an_open_lane_asks_nobody_to_wait():
    assert signal_of("invocations", "open", steady(arrival=50, drain=0), 5, POLICY).retry_after_s == 0.0


def test_a_lane_that_cannot_catch_up_answers_the_ceiling():
    signal = signal_of("invocations", "slow", steady(arrival=50, drain=30), 5, POLICY)
    assert signal.retry_after_s == 120
