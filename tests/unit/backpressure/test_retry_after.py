import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.backpressure.retry_after import Draining, SmoothedWait, retry_after

rates = st.floats(0, 1e6, allow_nan=False)
partitions = st.builds(Draining, excess=st.floats(-1e6, 1e6), arrival=rates, drain=rates)


def test_an_idle_lane_asks_nobody_to_wait():
    assert retry_after([Draining(excess=0, arrival=5, drain=0)]) == 0.0


def test_the_slowest_partition_decides():
    fast = Draining(excess=100, arrival=0, drain=100)
    slow = Draining(excess=100, arrival=40, drain=50)
    assert retry_after([fast, slow]) == pytest.approx(10.0)


def test_a_partition_that_cannot_catch_up_answers_the_ceiling():
    assert retry_after([Draining(excess=99, arrival=50, drain=50)], ceiling_s=30) == 30


@given(st.lists(partitions))
def test_the_answer_is_zero_or_within_bounds(found):
    wait = retry_after(found, floor_s=0.1, ceiling_s=60)
    assert wait == 0.0 or 0.1 <= wait <= 60


@given(st.lists(partitions, min_size=1))
def test_more_lag_never_shortens_the_wait(found):
    first = found[0]
    more = [Draining(abs(first.excess) * 2, first.arrival, first.drain), *found[1:]]
    assert retry_after(more) >= retry_after(found)


def test_bounds_that_contradict_each_other_are_named():
    with pytest.raises(ValueError, match="floor_s 5 exceeds ceiling_s 1"):
        retry_after([], floor_s=5, ceiling_s=1)


def test_a_smoothed_wait_counts_down_with_the_clock():
    wait = SmoothedWait(2.0)
    assert [wait.take(20.0 - t, t) for t in (0.0, 1.0, 5.0)] == [20.0, 19.0, 15.0]


def test_a_stray_estimate_moves_a_smoothed_wait_by_its_weight():
    wait = SmoothedWait(2.0)
    wait.take(20.0, 0.0)
    assert wait.take(38.0, 2.0) == pytest.approx(28.0)  # half of the way from 18 to 38
    wait.forget()
    assert wait.take(3.0, 2.0) == 3.0
