import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.backpressure.retry_after import PartitionLag, retry_after

rates = st.floats(0, 1e6, allow_nan=False)
lags = st.builds(PartitionLag, records=rates, arrival=rates, drain=rates)


def test_an_idle_lane_asks_nobody_to_wait():
    assert retry_after([PartitionLag(records=10, arrival=5, drain=0)], target=10) == 0.0


def test_the_slowest_partition_decides():
    fast = PartitionLag(records=110, arrival=0, drain=100)
    slow = PartitionLag(records=110, arrival=40, drain=50)
    assert retry_after([fast, slow], target=10) == pytest.approx(10.0)


def test_a_partition_that_cannot_catch_up_answers_the_ceiling():
    assert retry_after([PartitionLag(records=99, arrival=50, drain=50)], target=0, ceiling_s=30) == 30


@given(st.lists(lags), st.floats(0, 1e6))
def test_the_answer_is_zero_or_within_bounds(partitions, target):
    wait = retry_after(partitions, target=target, floor_s=0.1, ceiling_s=60)
    assert wait == 0.0 or 0.1 <= wait <= 60


@given(st.lists(lags, min_size=1), st.floats(0, 1e6))
def test_more_lag_never_shortens_the_wait(partitions, target):
    first = partitions[0]
    more = [PartitionLag(first.records * 2, first.arrival, first.drain), *partitions[1:]]
    assert retry_after(more, target=target) >= retry_after(partitions, target=target)


def test_bounds_that_contradict_each_other_are_named():
    with pytest.raises(ValueError, match="floor_s 5 exceeds ceiling_s 1"):
        retry_after([], target=0, floor_s=5, ceiling_s=1)
