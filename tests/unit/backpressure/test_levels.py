from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streams.backpressure import BackpressurePolicy, LevelState, next_level

POLICY = BackpressurePolicy(target_records=10, slow_records=100, close_records=1_000, dwell_s=2)


def levels(*backlogs: float, step_s: float = 10) -> list[str]:
    state = LevelState()
    seen: list[str] = []
    for n, backlog in enumerate(backlogs):
        state = next_level(state, backlog, n * step_s, POLICY)
        seen.append(state.level)
    return seen


def test_levels_follow_a_spike_up_and_down():
    assert levels(0, 100, 999, 1_000, 100, 99, 11, 10) == [
        "open", "slow", "slow", "closed", "closed", "slow", "slow", "open",
    ]  # fmt: skip


def test_a_backlog_that_wavers_around_a_threshold_changes_nothing():
    assert set(levels(100, 99, 100, 99, 101, 50)) == {"slow"}
    assert set(levels(1_000, 999, 1_001, 500)) == {"closed"}


def test_a_spike_closes_an_open_lane_at_once():
    assert levels(0, 5_000) == ["open", "closed"]


def test_dwell_passes_between_two_changes():
    state = next_level(LevelState(), 5_000, 100.0, POLICY)
    assert next_level(state, 0, 101.9, POLICY) is state
    assert next_level(state, 0, 102.0, POLICY).level == "open"


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 2_000)), max_size=60))
def test_no_level_changes_twice_within_a_dwell(samples):
    state, now, changes = LevelState(), 0.0, []
    for passed, backlog in samples:
        now += passed
        after = next_level(state, backlog, now, POLICY)
        if after.level != state.level:
            changes.append(now)
        state = after
    assert all(b - a >= POLICY.dwell_s for a, b in pairwise(changes))


def test_bounds_out_of_order_are_named():
    with pytest.raises(ValidationError, match="target_records 10 < slow_records 5"):
        BackpressurePolicy(target_records=10, slow_records=5)
