import random
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.breakers import Admitted, BreakerPolicy, Guard, Refusal
from streams.records.control import BreakerState

POLICY = BreakerPolicy(window_calls=10, minimum_calls=4, open_s=5, jitter=0, probe_lease_s=2, grace_s=3)


def guard(**policy: Any) -> Guard:
    return Guard("tool:crm", POLICY.model_copy(update=policy), "worker-1", random.Random(1).random, longest_call_s=2)


def fleet(phase: str, number: int = 1, **fields: Any) -> BreakerState:
    return BreakerState("tool:crm", phase, 1, number, "because", 0, **fields)


def call(breaker: Guard, now_ms: int, *, failed: bool = False, stamp: str = "") -> Admitted | Refusal:
    admitted = breaker.admit(now_ms, stamp)
    if isinstance(admitted, Admitted):
        breaker.record(admitted, failed, 0.01, now_ms, "TimeoutError" if failed else "")
    return admitted


def refused(answer: Admitted | Refusal) -> Refusal:
    assert isinstance(answer, Refusal)
    return answer


def admitted(answer: Admitted | Refusal) -> Admitted:
    assert isinstance(answer, Admitted)
    return answer


def test_trips_locally_at_once():
    breaker = guard()
    for _ in range(4):
        call(breaker, 100, failed=True)
    refusal = refused(breaker.admit(101))
    assert (refusal.phase, refusal.until_ms) == ("open", 5_100)
    assert breaker.phase == "open"


def test_a_local_opening_ends_with_one_probe():
    breaker = guard()
    for _ in range(4):
        call(breaker, 0, failed=True)
    probe = admitted(breaker.admit(5_000))
    assert probe.probe == "local"
    refused(breaker.admit(5_001))
    changed = breaker.record(probe, False, 0.01, 5_050)
    assert changed is not None
    assert changed.phase == "closed"
    assert admitted(breaker.admit(5_060)).probe == ""


def test_a_local_probe_that_never_comes_back_is_leased_again():
    breaker = guard()
    for _ in range(4):
        call(breaker, 0, failed=True)
    lost = admitted(breaker.admit(5_000))
    refused(breaker.admit(6_999))
    again = admitted(breaker.admit(7_000))
    assert breaker.record(lost, False, 0.01, 7_001) is None
    assert breaker.phase == "half-open"
    breaker.record(again, True, 0.01, 7_002, "TimeoutError")
    assert breaker.phase == "open"


def test_a_late_outcome_of_an_old_generation_changes_nothing():
    breaker = guard()
    early = admitted(breaker.admit(0))
    breaker.apply(fleet("open", 1, until_ms=5_000))
    breaker.apply(fleet("closed", 2))
    for _ in range(20):
        breaker.record(early, True, 0.01, 10)
    assert breaker.phase == "closed"
    assert breaker.drain(20) == ()


def test_the_fleets_open_refuses_until_its_end_and_the_grace():
    breaker = guard()
    breaker.apply(fleet("open", until_ms=5_000))
    assert refused(breaker.admit(0)).reason == "because"
    refused(breaker.admit(7_999))


def test_a_silent_control_plane_leaves_local_decisions_and_local_probes():
    breaker = guard()
    breaker.apply(fleet("open", until_ms=5_000, openings=2))
    probe = admitted(breaker.admit(8_000))
    assert probe.probe == "local"
    assert refused(breaker.admit(8_001)).phase == "half-open"
    breaker.record(probe, True, 0.01, 8_100)
    assert refused(breaker.admit(8_200)).until_ms == 8_100 + 20_000
    probe = admitted(breaker.admit(28_100))
    breaker.record(probe, False, 0.01, 28_200)
    assert admitted(breaker.admit(28_300)).probe == ""
    for _ in range(4):
        call(breaker, 28_400, failed=True)
    refused(breaker.admit(28_500))
    breaker.apply(fleet("closed", 2))
    admitted(breaker.admit(28_600))


def test_half_open_refuses_all_but_the_stamped_probe_and_that_once():
    breaker = guard()
    breaker.apply(fleet("half-open", 3, probe_holder="shard-1", probe_expires_ms=2_000))
    refused(breaker.admit(100))
    probe = admitted(breaker.admit(100, "1.3"))
    assert probe == Admitted(1, 3, probe.local, "fleet")
    assert "over or used" in refused(breaker.admit(100, "1.3")).reason


def test_the_holder_of_a_lease_admits_one_call():
    breaker = guard()
    breaker.apply(fleet("half-open", 3, probe_holder="worker-1", probe_expires_ms=2_000))
    assert admitted(breaker.admit(100)).probe == "fleet"
    refused(breaker.admit(101))
    breaker.apply(fleet("half-open", 4, probe_holder="worker-1", probe_expires_ms=4_000))
    assert admitted(breaker.admit(2_100)).number == 4


def test_a_stamp_may_be_newer_than_the_record_known_here_but_not_older():
    breaker = guard()
    breaker.apply(fleet("open", 2, until_ms=5_000))
    assert admitted(breaker.admit(5_001, "1.3")).number == 3
    breaker.apply(fleet("closed", 4))
    refused(breaker.admit(5_002, "1.3"))
    refused(breaker.admit(5_002, "nonsense"))


def test_the_outcome_of_a_probe_is_reported_with_its_generation():
    breaker = guard()
    breaker.apply(fleet("half-open", 3, probe_holder="worker-1", probe_expires_ms=2_000))
    call(breaker, 100, failed=True)
    (digest,) = breaker.drain(200)
    assert (digest.probe, digest.generation, digest.calls, digest.failures) == ("failed", "1.3", 1, 1)


def test_digests_carry_what_happened_since_the_last():
    breaker = guard(minimum_calls=10)
    call(breaker, 1_000)
    call(breaker, 1_001, failed=True)
    (first,) = breaker.drain(1_250)
    assert (first.calls, first.failures, first.generation, first.errors) == (2, 1, "0.0", {"TimeoutError": 1})
    assert breaker.drain(1_500) == ()
    breaker.apply(fleet("open", until_ms=9_000))
    breaker.admit(1_600)
    (second,) = breaker.drain(1_750)
    assert (second.short_circuited, second.calls, second.phase, second.generation) == (1, 0, "open", "1.1")
    assert second.sequence > first.sequence > 0


def test_a_restarted_reporter_goes_on_with_higher_sequences():
    old, new = guard(), guard()
    for now in (1_000, 2_000):
        call(old, now)
    (last,) = old.drain(2_000)
    call(new, 3_000)
    assert new.drain(3_000)[0].sequence > last.sequence


def test_forced_closed_and_metrics_only_never_refuse_but_count():
    for phase in ("forced-closed", "metrics-only"):
        breaker = guard()
        breaker.apply(fleet(phase))
        for _ in range(20):
            assert isinstance(call(breaker, 10, failed=True), Admitted)
        assert breaker.drain(20)[0].failures == 20


def test_forced_open_refuses_for_ever():
    breaker = guard()
    breaker.apply(fleet("forced-open"))
    assert refused(breaker.admit(10**12)).phase == "forced-open"
    refused(breaker.admit(10**12, "9.9"))


def test_an_older_record_is_not_followed():
    breaker = guard()
    assert breaker.apply(fleet("open", 5, until_ms=5_000))
    assert not breaker.apply(fleet("closed", 4))
    assert not breaker.apply(replace(fleet("closed", 9), epoch=0))
    assert breaker.phase == "open"


def test_slow_calls_open_where_the_policy_says_what_slow_is():
    breaker = guard(slow_call_s=1.0)
    for _ in range(4):
        token = admitted(breaker.admit(0))
        breaker.record(token, False, 1.5, 0)
    assert "took 1 s or more" in refused(breaker.admit(1)).reason


def test_error_classes_are_bounded():
    breaker = guard(minimum_calls=10)
    breaker.apply(fleet("metrics-only"))
    for n in range(100):
        breaker.record(admitted(breaker.admit(0)), True, 0.01, 0, f"Error{n}")
    (digest,) = breaker.drain(1)
    assert len(digest.errors) == 17
    assert digest.errors["other"] == 84


def test_ignored_errors_are_not_counted_and_of_counted_ones_only_those():
    breaker = guard(ignored_errors={"NotFound"}, counted_errors={"TimeoutError"})
    for _ in range(9):
        breaker.record(admitted(breaker.admit(0)), True, 0.01, 0, "NotFound")
    assert breaker.drain(1) == ()
    for error in ("ValueError", "ValueError", "TimeoutError"):
        breaker.record(admitted(breaker.admit(0)), True, 0.01, 0, error)
    (digest,) = breaker.drain(1)
    assert (digest.calls, digest.failures, digest.errors) == (3, 1, {"TimeoutError": 1})
    assert breaker.phase == "closed"


def test_an_ignored_error_of_a_probe_has_found_the_dependency():
    breaker = guard(ignored_errors={"NotFound"})
    breaker.apply(fleet("half-open", 3, probe_holder="worker-1", probe_expires_ms=2_000))
    breaker.record(admitted(breaker.admit(100)), True, 0.01, 150, "NotFound")
    (digest,) = breaker.drain(200)
    assert (digest.probe, digest.failures) == ("ok", 0)


def test_throttled_calls_are_not_counted_but_close_as_a_probe():
    breaker = guard()
    for _ in range(20):
        breaker.throttled(admitted(breaker.admit(0)), 0)
    assert breaker.drain(1) == ()
    for _ in range(4):
        call(breaker, 0, failed=True)
    probe = admitted(breaker.admit(5_000))
    breaker.throttled(probe, 5_010)
    assert breaker.phase == "closed"


def test_a_failure_that_says_for_how_long_opens_for_so_long_here_and_tells_the_fleet():
    breaker = guard()
    for _ in range(4):
        breaker.record(admitted(breaker.admit(0)), True, 0.01, 0, "Unavailable", retry_after_s=30)
    assert refused(breaker.admit(1)).until_ms == 30_000
    assert breaker.drain(2)[0].retry_after_ms == 30_000


def test_a_probe_is_announced_with_the_latest_end_of_its_call_and_then_reported():
    breaker = guard()
    breaker.apply(fleet("half-open", 3, probe_holder="worker-1", probe_expires_ms=2_000))
    probe = admitted(breaker.admit(100))
    (begun,) = breaker.drain(200)
    assert (begun.probe, begun.generation, begun.probe_until_ms, begun.calls) == ("begun", "1.3", 2_100, 0)
    breaker.apply(fleet("half-open", 4, probe_expires_ms=4_100, probe_under_way="1.3"))
    refused(breaker.admit(250))
    breaker.record(probe, False, 0.01, 300)
    done = breaker.drain(400)
    assert [(digest.probe, digest.generation) for digest in done] == [("ok", "1.3"), ("", "1.4")]


def test_a_probe_that_ends_before_it_was_announced_is_reported_once():
    breaker = guard()
    breaker.apply(fleet("half-open", 3, probe_holder="worker-1", probe_expires_ms=2_000))
    call(breaker, 100)
    assert [digest.probe for digest in breaker.drain(200)] == ["ok"]


def test_a_slow_probe_does_not_close_where_slow_calls_are_judged():
    breaker = guard(slow_call_s=1.0)
    breaker.apply(fleet("half-open", 3, probe_holder="worker-1", probe_expires_ms=2_000))
    breaker.record(admitted(breaker.admit(100)), False, 1.5, 1_600)
    (digest,) = breaker.drain(1_700)
    assert (digest.probe, digest.failures, digest.slow) == ("failed", 0, 1)


def test_an_abandoned_probe_gives_its_lease_on():
    breaker = guard()
    breaker.apply(fleet("half-open", 3, probe_holder="worker-1", probe_expires_ms=2_000))
    breaker.abandon(admitted(breaker.admit(100)), 150)
    assert [(digest.probe, digest.calls) for digest in breaker.drain(200)] == [("void", 0)]
    alone = guard()
    for _ in range(4):
        call(alone, 0, failed=True)
    alone.abandon(admitted(alone.admit(5_000)), 5_001)
    assert admitted(alone.admit(5_002)).probe == "local"
    refused(alone.admit(5_003))


def test_a_local_lease_is_as_long_as_a_call_may_take():
    breaker = Guard("llm:fast", POLICY, "llm-1", random.Random(1).random, longest_call_s=60)
    for _ in range(4):
        call(breaker, 0, failed=True)
    probe = admitted(breaker.admit(5_000))
    refused(breaker.admit(64_900))
    breaker.record(probe, False, 59.9, 64_950)
    assert breaker.phase == "closed"


def test_every_transition_is_told_once_with_who_decided_it():
    told: list[tuple[str, str, str]] = []
    breaker = Guard(
        "tool:crm",
        POLICY,
        "worker-1",
        random.Random(1).random,
        longest_call_s=2,
        on_change=lambda change, by: told.append((change.before.phase, change.after.phase, by)),
    )
    for _ in range(4):
        call(breaker, 0, failed=True)
    call(breaker, 5_000)
    breaker.apply(fleet("open", 1, until_ms=5_000))
    breaker.apply(fleet("half-open", 2, probe_holder="a", probe_expires_ms=7_000))
    call(breaker, 10_000)
    assert told == [
        ("closed", "open", "local"),
        ("open", "half-open", "local"),
        ("half-open", "closed", "local"),
        ("closed", "open", "fleet"),
        ("open", "half-open", "fleet"),
        ("half-open", "open", "local"),
        ("open", "half-open", "local"),
        ("half-open", "closed", "local"),
    ]
    assert breaker.transitions["local", "closed"] == 2
    assert breaker.transitions["fleet", "open"] == 1


def test_totals_go_on_over_digests():
    breaker = guard(minimum_calls=10)
    call(breaker, 0)
    breaker.drain(1)
    call(breaker, 2, failed=True)
    assert breaker.totals == {"calls": 2, "failures": 1, "slow": 0, "short_circuited": 0}


@given(
    st.lists(st.sampled_from(["fail", "ok", "wait", "open", "half-open", "mine", "closed", "forced-open"]), max_size=30)
)
def test_what_would_be_refused_is_what_is_refused(history):
    breaker, now = guard(), 0
    for number, what in enumerate(history, 1):
        now += 700
        if what in ("fail", "ok"):
            call(breaker, now, failed=what == "fail")
        elif what == "mine":
            breaker.apply(fleet("half-open", number, probe_holder="worker-1", probe_expires_ms=now + 2_000))
        elif what != "wait":
            breaker.apply(fleet(what, number, until_ms=now + 1_500, probe_holder="else", probe_expires_ms=now + 900))
        would = breaker.would_refuse(now)
        assert (would is None) == isinstance(breaker.admit(now), Admitted)


def test_a_call_that_is_not_made_because_of_it_counts_as_demand():
    breaker = guard()
    breaker.apply(fleet("open", until_ms=5_000))
    breaker.would_refuse(0)
    assert breaker.drain(1) == ()
    breaker.would_refuse(2, count=True)
    assert breaker.drain(3)[0].short_circuited == 1
