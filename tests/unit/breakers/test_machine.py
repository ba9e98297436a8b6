from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streams.breakers.machine import BreakerMachine, closed, generation_of, parse_generation
from streams.breakers.policy import BreakerPolicy
from streams.breakers.window import FAILED, OK, SLOW

POLICY = BreakerPolicy(window_calls=10, minimum_calls=4, open_s=5, jitter=0, probe_lease_s=2)
MID = 0.5


def machine(policy: BreakerPolicy = POLICY, epoch: int = 1) -> BreakerMachine:
    return BreakerMachine(policy, closed("tool:crm"), epoch=epoch)


def opened(at_ms: int = 0, **policy: Any) -> BreakerMachine:
    breaker = machine(POLICY.model_copy(update=policy))
    for _ in range(4):
        breaker.record(FAILED, at_ms, MID)
    assert breaker.state.phase == "open"
    return breaker


def half_open(holder: str = "shard-1") -> BreakerMachine:
    breaker = opened()
    breaker.demand(holder, 4_900)
    breaker.tick(5_000)
    assert breaker.state.probe_holder == holder
    return breaker


def test_opens_at_the_failure_rate_and_says_why():
    breaker = machine()
    assert [breaker.record(code, 7, MID) for code in (OK, OK, FAILED)] == [None] * 3
    change = breaker.record(FAILED, 7, MID)
    assert change is not None
    assert change.after.phase == "open"
    assert change.after.reason == "2 of 4 calls failed (failure_rate 0.5)"
    assert (change.after.failure_rate, change.after.calls, change.after.until_ms) == (0.5, 4, 5_007)


def test_below_the_minimum_volume_nothing_is_concluded():
    breaker = machine()
    assert [breaker.record(FAILED, 0, MID) for _ in range(3)] == [None] * 3


def test_a_success_that_completes_the_volume_can_open():
    breaker = machine()
    for _ in range(3):
        breaker.record(FAILED, 0, MID)
    change = breaker.record(OK, 0, MID)
    assert change is not None
    assert change.after.phase == "open"


def test_opens_at_the_slow_rate_only_where_calls_are_judged_by_duration():
    judged = machine(POLICY.model_copy(update={"slow_call_s": 1.0}))
    for _ in range(4):
        judged.record(SLOW, 0, MID)
    assert "took 1 s or more" in judged.state.reason
    unjudged = machine()
    for _ in range(10):
        unjudged.record(SLOW, 0, MID)
    assert unjudged.state.phase == "closed"


def test_a_transition_starts_a_new_generation_of_the_writers_epoch():
    breaker = BreakerMachine(POLICY, closed("tool:crm", epoch=3, number=7), epoch=4)
    for _ in range(4):
        breaker.record(FAILED, 0, MID)
    assert breaker.generation == (4, 1)
    breaker.tick(5_000)
    assert breaker.generation == (4, 2)


def test_sums_of_an_old_generation_are_discarded():
    breaker = half_open()
    late = (1, 1)
    breaker.probe(True, breaker.generation, 5_100, MID)
    assert breaker.record_many(10, 10, 0, late, 5_200, MID) is None
    assert breaker.state.phase == "closed"
    assert breaker.window.calls == 0


def test_half_open_leases_the_probe_to_who_asked_last():
    breaker = opened()
    breaker.demand("shard-1", 3_900)
    breaker.demand("shard-2", 4_900)
    change = breaker.tick(5_000)
    assert change is not None
    assert change.after.phase == "half-open"
    assert (change.after.probe_holder, change.after.probe_expires_ms) == ("shard-2", 7_000)


def test_half_open_without_demand_leases_to_the_first_who_asks():
    breaker = opened()
    breaker.tick(5_000)
    assert breaker.state.probe_holder == ""
    change = breaker.demand("shard-3", 5_500)
    assert change is not None
    assert (change.after.probe_holder, change.after.since_ms) == ("shard-3", 5_000)
    assert not change.changes_phase
    assert breaker.demand("shard-4", 5_600) is None


def test_a_lease_that_finds_no_call_moves_on():
    breaker = half_open("shard-1")
    breaker.demand("shard-2", 6_000)
    breaker.demand("shard-1", 6_500)
    change = breaker.tick(7_000)
    assert change is not None
    assert change.after.probe_holder == "shard-2"
    assert change.after.reason == "shard-1 made no call within the lease"


def test_a_probe_of_an_expired_lease_changes_nothing():
    breaker = half_open()
    old = breaker.generation
    breaker.tick(7_000)
    assert breaker.probe(True, old, 7_100, MID) is None
    assert breaker.state.phase == "half-open"


def test_a_probe_that_succeeds_closes_with_an_empty_window():
    breaker = half_open()
    change = breaker.probe(True, breaker.generation, 5_100, MID)
    assert change is not None
    assert change.after.phase == "closed"
    assert breaker.window.calls == 0


def test_open_time_escalates_to_its_ceiling_and_starts_again_after_calm():
    breaker = opened(open_ceiling_s=12)
    now, lengths = 0, [breaker.state.until_ms]
    for _ in range(3):
        now = breaker.state.until_ms
        breaker.tick(now)
        breaker.probe(False, breaker.generation, now, MID, why="TimeoutError")
        lengths.append(breaker.state.until_ms - now)
    assert lengths == [5_000, 10_000, 12_000, 12_000]
    assert breaker.state.reason == "the probe failed: TimeoutError"
    now = breaker.state.until_ms
    breaker.tick(now)
    breaker.probe(True, breaker.generation, now, MID)
    for _ in range(4):
        breaker.record(FAILED, now + 60_000, MID)
    assert breaker.state.openings == 1


def test_opening_again_soon_after_closing_escalates():
    breaker = half_open()
    breaker.probe(True, breaker.generation, 5_100, MID)
    for _ in range(4):
        breaker.record(FAILED, 5_200, MID)
    assert (breaker.state.openings, breaker.state.until_ms) == (2, 15_200)


@pytest.mark.parametrize("phase", ["forced-open", "forced-closed", "metrics-only"])
def test_what_an_operator_forced_stands_until_an_operator_changes_it(phase):
    breaker = machine()
    breaker.force(phase, "ana", "incident 7", 1_000)
    for now in range(2_000, 90_000, 500):
        breaker.record(FAILED, now, MID)
        assert breaker.tick(now) is None
    assert (breaker.state.phase, breaker.state.changed_by, breaker.state.reason) == (phase, "ana", "incident 7")
    breaker.force("closed", "ana", "over", 99_000)
    assert breaker.state.phase == "closed"


def test_an_operator_cannot_enter_the_machines_own_phases():
    with pytest.raises(ValueError, match="'open' cannot be forced; use forced-open"):
        machine().force("open", "ana", "", 0)


def test_a_window_by_time_judges_what_is_left_when_old_calls_have_gone():
    breaker = machine(BreakerPolicy(window_s=10, minimum_calls=4, jitter=0))
    for now, code in ((0, OK), (0, OK), (0, OK), (0, OK), (6_000, FAILED), (6_000, FAILED), (6_000, FAILED)):
        assert breaker.record(code, now, MID) is None
    change = breaker.record(OK, 10_500, MID)
    assert change is not None
    assert change.after.reason == "3 of 4 calls failed (failure_rate 0.5)"


def test_a_window_by_time_forgets():
    breaker = machine(BreakerPolicy(window_s=10, minimum_calls=4))
    for now in range(0, 100_000, 4_000):
        assert breaker.record(FAILED, now, MID) is None


@pytest.mark.parametrize(
    ("asked_s", "luck", "lasts_s"), [(2, 0.0, 4.0), (60, 0.0, 60.0), (60, 0.5, 66.0), (9e9, 0, 900)]
)
def test_an_opening_honours_retry_after_up_to_its_ceiling_and_never_ends_before(asked_s, luck, lasts_s):
    breaker = machine(BreakerPolicy(minimum_calls=1, jitter=0.2))
    breaker.record(FAILED, 1_000, luck, retry_after_ms=int(asked_s * 1000))
    assert breaker.state.until_ms == 1_000 + lasts_s * 1000


def test_a_failed_probe_honours_retry_after():
    breaker = half_open()
    breaker.probe(False, breaker.generation, 5_100, MID, retry_after_ms=40_000)
    assert breaker.state.until_ms == 45_100


def test_a_probe_that_has_begun_is_waited_for_as_long_as_its_call_may_take():
    breaker = half_open()
    lease = breaker.generation
    change = breaker.begin_probe(lease, 65_000, 5_100)
    assert change is not None
    assert (change.after.probe_holder, change.after.probe_under_way) == ("", "1.2")
    assert change.after.reason == "the probe of shard-1 is under way"
    breaker.demand("shard-2", 6_000)
    assert breaker.tick(66_900) is None
    change = breaker.probe(True, lease, 66_950, MID)
    assert change is not None
    assert change.after.phase == "closed"


def test_a_probe_under_way_is_leased_to_nobody_else():
    breaker = half_open()
    breaker.begin_probe(breaker.generation, 65_000, 5_100)
    assert breaker.demand("shard-2", 6_000) is None
    assert breaker.begin_probe((1, 2), 65_000, 6_000) is None
    assert breaker.probe(True, breaker.generation, 6_000, MID) is None


def test_a_holder_that_dies_with_its_probe_under_way_loses_it():
    breaker = half_open()
    breaker.begin_probe(breaker.generation, 15_000, 5_100)
    breaker.demand("shard-2", 16_900)
    change = breaker.tick(17_000)
    assert change is not None
    assert (change.after.probe_holder, change.after.probe_under_way) == ("shard-2", "")
    assert change.after.reason == "the probe that was under way has not reported"
    assert breaker.probe(True, (1, 2), 17_100, MID) is None


def test_a_probe_is_not_waited_for_longer_than_ten_minutes():
    breaker = half_open()
    breaker.begin_probe(breaker.generation, 10**12, 5_000)
    assert breaker.state.probe_expires_ms == 5_000 + 602_000


def test_a_probe_without_an_outcome_is_leased_again_to_who_asked_last():
    breaker = half_open()
    lease = breaker.generation
    breaker.demand("shard-2", 5_050)
    change = breaker.void_probe(lease, 5_100)
    assert change is not None
    assert (change.after.phase, change.after.probe_holder) == ("half-open", "shard-2")
    assert breaker.void_probe(lease, 5_200) is None


def silent_since_open() -> BreakerMachine:
    """A control plane whose opening was over at 5 s, and which looks again at 20 s."""
    breaker = BreakerMachine(POLICY, opened().state, epoch=2, hears_callers=True)
    assert breaker.tick(20_000) is None
    return breaker


def test_after_a_silence_the_callers_word_closes():
    breaker = silent_since_open()
    change = breaker.heard("closed", (1, 1), 20_100)
    assert change is not None
    assert (change.after.phase, change.after.epoch) == ("closed", 2)
    assert change.after.reason == "its callers closed it while the control plane was silent"


def test_after_a_silence_nobodys_word_leases_the_probe():
    breaker = silent_since_open()
    assert breaker.heard("open", (1, 1), 20_100) is None
    assert breaker.heard("closed", (1, 0), 20_100) is None
    assert breaker.tick(24_900) is None
    change = breaker.tick(25_000)
    assert change is not None
    assert change.after.phase == "half-open"


def test_without_a_silence_a_callers_word_does_not_close():
    breaker = BreakerMachine(POLICY, opened().state, epoch=2, hears_callers=True)
    assert breaker.heard("closed", (1, 1), 9_900) is None
    assert breaker.tick(9_950) is not None


def test_an_order_that_is_delivered_again_changes_nothing():
    breaker = machine()
    assert breaker.force("forced-open", "ana", "incident 7", 1_000, order="a") is not None
    assert breaker.force("closed", "ben", "over", 2_000, order="b") is not None
    again = BreakerMachine(POLICY, breaker.state, epoch=2)
    assert again.force("forced-open", "ana", "incident 7", 3_000, order="a") is None
    assert again.force("closed", "ben", "over", 3_000, order="b") is None
    assert again.state == breaker.state


def test_orders_are_remembered_across_transitions_and_bounded():
    breaker = machine()
    for number in range(20):
        breaker.force("forced-open", "ana", "drill", 0, order=str(number))
    breaker.force("closed", "ana", "over", 0)
    for _ in range(4):
        breaker.record(FAILED, 10, MID)
    assert breaker.state.phase == "open"
    assert breaker.state.orders == tuple(map(str, range(12, 20)))


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        ({"minimum_calls": 60}, "minimum_calls 60 exceeds window_calls 50: the breaker could never open; lower the"),
        ({"open_s": 300}, "open_s 300 exceeds open_ceiling_s 120"),
        ({"ignored_errors": {"KeyError"}, "counted_errors": {"KeyError"}}, "'KeyError' is in counted_errors and in"),
        ({"ignored_errors": {"not a class"}}, "'not a class' is not the name of a class"),
        ({"failure_rate": 1.5}, "failure_rate"),
        ({"failure_rate": 0}, "failure_rate"),
        ({"window_s": 0.2}, "window_s"),
        ({"jitter": 1}, "jitter"),
        ({"opens_s": 3}, "opens_s"),
    ],
)
def test_thresholds_outside_their_range_are_named(thresholds, says):
    with pytest.raises(ValidationError, match=says):
        BreakerPolicy(**thresholds)


def test_a_window_by_time_has_no_number_that_the_minimum_could_exceed():
    assert BreakerPolicy(window_s=60, minimum_calls=1_000).minimum_calls == 1_000


def test_a_writer_older_than_the_record_is_refused():
    with pytest.raises(ValueError, match="writer epoch 2 is older than epoch 3"):
        BreakerMachine(POLICY, closed("tool:crm", epoch=3), epoch=2)


@pytest.mark.parametrize("text", ["", "1", "a.b", "1.-2", "1.2.3"])
def test_text_that_is_no_generation(text):
    assert parse_generation(text) is None


events = st.one_of(
    st.tuples(st.just("record"), st.sampled_from([OK, FAILED])),
    st.tuples(st.just("demand"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("tick"), st.none()),
    st.tuples(st.just("probe"), st.booleans()),
    st.tuples(st.just("old probe"), st.booleans()),
)


@given(st.lists(st.tuples(st.integers(0, 4_000), events), max_size=80), st.floats(0, 0.999))
def test_whatever_happens_generations_only_grow_and_leases_have_one_holder(history, luck):
    breaker, now, last = machine(), 0, (0, 0)
    leased: dict[tuple[int, int], str] = {}
    for passed, (what, value) in history:
        now += passed
        match what:
            case "record":
                change = breaker.record(value, now, luck)
            case "demand":
                change = breaker.demand(value, now)
            case "tick":
                change = breaker.tick(now)
            case "probe":
                change = breaker.probe(value, breaker.generation, now, luck)
            case _:
                change = breaker.probe(value, last if last != breaker.generation else (0, 0), now, luck)
                assert change is None
        if change is not None:
            assert breaker.generation > last
            last = breaker.generation
            assert parse_generation(generation_of(change.after)) == breaker.generation
        if breaker.state.phase == "half-open":
            holder = leased.setdefault(breaker.generation, breaker.state.probe_holder)
            assert holder == breaker.state.probe_holder
