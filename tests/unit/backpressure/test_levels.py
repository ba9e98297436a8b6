from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streams.backpressure import BackpressurePolicy, Bounds, Fullness, LevelState, PartitionLag, fullness, next_level
from streams.backpressure.limits import Limits, fullest, limits
from streams.records.load import Load

POLICY = BackpressurePolicy(target_records=10, slow_records=100, close_records=1_000, least_records=2, dwell_s=2)


def lag(backlog: int, capacity: float | None = None, number: int = 0) -> PartitionLag:
    return PartitionLag(number, backlog, Load(0), 0.0, 0.0, 0.0, capacity, 0.0)


def full(backlog: int) -> Fullness:
    return fullness("invocations", [lag(backlog)], POLICY)


def levels(*backlogs: int, step_s: float = 10) -> list[str]:
    state = LevelState()
    seen: list[str] = []
    for n, backlog in enumerate(backlogs):
        state = next_level(state, full(backlog), n * step_s, POLICY.dwell_s)
        seen.append(state.level)
    return seen


def test_a_closed_lane_opens_where_retry_after_said_and_by_way_of_slow():
    assert levels(0, 100, 999, 1_000, 100, 11, 10, 10, 0) == [
        "open", "slow", "slow", "closed", "closed", "closed", "slow", "open", "open",
    ]  # fmt: skip


def test_a_slow_lane_opens_at_the_target():
    assert levels(100, 50, 11, 10) == ["slow", "slow", "slow", "open"]


def test_a_backlog_that_wavers_around_a_bound_changes_nothing():
    assert set(levels(100, 99, 100, 99, 101, 50)) == {"slow"}
    assert set(levels(1_000, 999, 1_001, 500)) == {"closed"}


def test_a_spike_closes_an_open_lane_at_once():
    assert levels(0, 5_000) == ["open", "closed"]


def test_dwell_passes_between_two_changes():
    state = next_level(LevelState(), full(5_000), 100.0, 2)
    assert next_level(state, full(0), 101.9, 2) is state
    assert next_level(state, full(0), 102.0, 2).level == "slow"


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 2_000)), max_size=60))
def test_no_level_changes_twice_within_a_dwell(samples):
    state, now, changes = LevelState(), 0.0, []
    for passed, backlog in samples:
        now += passed
        after = next_level(state, full(backlog), now, POLICY.dwell_s)
        if after.level != state.level:
            changes.append(now)
        state = after
    assert all(b - a >= POLICY.dwell_s for a, b in pairwise(changes))


def test_bounds_follow_what_the_consumer_can_do():
    bounds = Bounds(target_s=5, slow_s=30, close_s=60, least_records=40)
    assert limits(bounds, 4, None) == Limits(250, 2_500, 12_500)
    assert limits(bounds, 4, 2.0) == Limits(10, 60, 120)
    assert limits(bounds, 4, 1e6) == Limits(250, 2_500, 12_500)


def test_a_consumer_that_stands_still_leaves_a_gap_between_target_and_bounds():
    assert limits(Bounds(least_records=40), 4, 0.0) == Limits(5, 10, 10)


def test_the_fullest_partition_decides_for_the_lane():
    bounds = Bounds(least_records=4)
    lags = [lag(0, 100.0, 0), lag(700, 10.0, 1), lag(3, 100.0, 2), lag(0, None, 3)]
    found = fullness("invocations", lags, bounds)
    assert (found.at_target, found.slow, found.closed) == (False, True, True)
    assert found.why.startswith("invocations[1] has 700 waiting or open and finishes 10.0/s")


@given(st.lists(st.integers(0, 1_000), min_size=4, max_size=4))
def test_a_lane_whose_partitions_are_within_their_share_is_within_its_bounds(backlogs):
    found = fullness("invocations", [lag(b, None, n) for n, b in enumerate(backlogs)], POLICY)
    if not found.closed:
        assert sum(backlogs) < POLICY.close_records
    if found.at_target:
        assert sum(backlogs) <= POLICY.target_records


def test_of_several_stages_the_fullest_counts_and_all_must_be_at_target():
    own, behind = Fullness(True, False, False, "own"), Fullness(False, True, False, "behind")
    assert fullest([own, behind]) == Fullness(False, True, False, "behind")
    assert fullest([]) == Fullness()


def test_bounds_out_of_order_are_named():
    with pytest.raises(ValidationError, match="target_records 10 < slow_records 5"):
        BackpressurePolicy(target_records=10, slow_records=5)
    with pytest.raises(ValidationError, match="target_s 5 < slow_s 3 <= close_s 60"):
        BackpressurePolicy(slow_s=3)
    with pytest.raises(ValidationError, match=r"floor_s 5\.0 exceeds ceiling_s 1\.0"):
        BackpressurePolicy(floor_s=5, ceiling_s=1)
