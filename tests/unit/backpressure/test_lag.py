import pytest

from streams.backpressure import PartitionMeter, Reading
from streams.records.load import Load


def meter(busy: float = 10) -> PartitionMeter:
    return PartitionMeter(0, half_life_s=2.0, busy=busy)


def steady(arrival: int, drain: int, *, seconds: int = 60, start: int = 0) -> PartitionMeter:
    it = meter()
    for t in range(seconds + 1):
        it.sample(Reading(drain * t, start + arrival * t, Load(t * 1000)), float(t))
    return it


def test_rates_are_the_true_ones_from_the_second_sample_on():
    for seconds in (1, 60):
        lag = steady(arrival=50, drain=30, seconds=seconds).lag(0)
        assert [lag.arrival_per_s, lag.drain_per_s] == pytest.approx([50, 30])
    assert lag.backlog == lag.unread == 20 * 60


def test_the_lag_in_seconds_is_the_age_of_the_oldest_unread_record():
    it = meter()
    it.sample(Reading(5, 10, None, oldest_ms=4_000), 0.0)
    assert it.lag(12_500).lag_s == 8.5
    it.sample(Reading(10, 10, None), 1.0)
    assert it.lag(13_500).lag_s == 0.0


def test_a_producer_whose_clock_is_ahead_makes_no_negative_lag():
    it = meter()
    it.sample(Reading(0, 1, None, oldest_ms=5_000), 0.0)
    assert it.lag(4_000).lag_s == 0.0


def test_what_is_open_counts_and_what_rests_or_is_parked_does_not():
    it = meter()
    it.sample(Reading(10, 30, Load(0, working=7, queued=5, resting=100, parked=9)), 0.0)
    lag = it.lag(0)
    assert (lag.unread, lag.backlog, lag.load.parked) == (20, 32, 9)


def test_what_was_read_out_of_order_is_not_unread():
    it = meter()
    it.sample(Reading(10, 100, Load(0, working=3, read=60)), 0.0)
    assert (it.lag(0).unread, it.lag(0).backlog) == (40, 43)


def test_reading_without_finishing_is_no_drain():
    it = meter()
    for t in range(10):
        it.sample(Reading(20 * t, 20 * t, Load(t * 1000, working=20 * t)), float(t))
    assert it.lag(0).drain_per_s == 0.0


def test_reports_that_come_less_often_than_samples_do_not_make_the_rate_jump():
    it = meter()
    for sample in range(1, 101):
        reported = sample // 4  # every two seconds
        it.sample(Reading(60 * reported, 10_000, Load(2_000 * reported)), sample / 2)
        if sample > 4:
            assert it.lag(0).drain_per_s == pytest.approx(30)


def test_capacity_is_learned_while_there_is_work_and_kept_while_there_is_none():
    it = meter()
    for t in range(20):
        it.sample(Reading(5 * t, 5 * t + 2, Load(t * 1000)), float(t))
    assert it.lag(0).capacity_per_s is None
    for t in range(20, 40):
        it.sample(Reading(100 + 40 * (t - 20), 5_000, Load(t * 1000)), float(t))
    assert it.lag(0).capacity_per_s == pytest.approx(40, rel=0.01)
    for t in range(40, 100):
        it.sample(Reading(5_000, 5_000, Load(t * 1000)), float(t))
    lag = it.lag(0)
    assert lag.drain_per_s < 1
    assert lag.capacity_per_s == pytest.approx(40, rel=0.01)


def test_a_consumer_that_becomes_faster_is_believed_after_two_samples():
    it = steady(arrival=0, drain=10, start=5_000)
    for t in (61, 62):
        it.sample(Reading(600 + 90 * (t - 60), 5_000, Load(t * 1000)), float(t))
    assert it.lag(0).capacity_per_s == pytest.approx(90, rel=0.01)


def test_a_consumer_that_reports_nothing_any_more_stands_still():
    it = steady(arrival=30, drain=30, start=500)
    for t in range(61, 81):
        it.sample(Reading(30 * 60, 500 + 30 * t, Load(60_000), oldest_ms=60_000), float(t))
    lag = it.lag(80_000)
    assert [lag.silent_s, lag.lag_s, lag.arrival_per_s] == pytest.approx([20.0, 20.0, 30])
    assert lag.drain_per_s < 1
    assert lag.capacity_per_s is not None
    assert lag.capacity_per_s < 1


def test_a_consumer_that_comes_back_is_measured_from_there_on():
    it = steady(arrival=0, drain=30, start=9_000)
    for t in range(61, 71):
        it.sample(Reading(1_800, 9_000, Load(60_000)), float(t))
    for t in range(71, 74):
        it.sample(Reading(1_800 + 30 * (t - 70), 9_000, Load(t * 1000)), float(t))
    assert it.lag(0).capacity_per_s == pytest.approx(30, rel=0.05)


def test_a_consumer_without_notes_is_measured_by_its_positions():
    it = meter()
    for t in range(20):
        it.sample(Reading(25 * t, 1_000), float(t))
    assert it.lag(0).drain_per_s == pytest.approx(25)


def test_a_position_that_goes_back_is_lag_and_no_negative_rate():
    it = meter()
    it.sample(Reading(100, 100, Load(0)), 0.0)
    it.sample(Reading(40, 100, Load(1_000)), 1.0)
    lag = it.lag(0)
    assert (lag.unread, lag.drain_per_s) == (60, 0.0)


def test_a_clock_that_stands_still_is_ignored():
    it = meter()
    it.sample(Reading(0, 10), 1.0)
    it.sample(Reading(0, 99), 1.0)
    assert it.lag(0).unread == 10


def test_a_partition_that_was_never_sampled_has_no_lag_to_tell():
    with pytest.raises(ValueError, match="partition 0 was not sampled yet"):
        meter().lag(0)


def test_a_half_life_must_be_positive():
    with pytest.raises(ValueError, match="half_life_s must be positive, got 0"):
        PartitionMeter(0, half_life_s=0, busy=1)
