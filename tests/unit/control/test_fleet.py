from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.breakers import BreakerPolicy
from streams.control.fleet import Fleet
from streams.records.control import BreakerState, OutcomeDigest

POLICY = BreakerPolicy(window_calls=20, minimum_calls=10, open_s=5, jitter=0, probe_lease_s=2)


def fleet(*states: BreakerState, epoch: int = 1) -> Fleet:
    return Fleet(lambda _: POLICY, states, epoch, max_age_s=30, luck=lambda: 0.5)


def digest(
    sequence: int, *, reporter: str = "w1", generation: str = "0.0", at_ms: int = 0, **sums: Any
) -> OutcomeDigest:
    fields = {"calls": 0, "failures": 0, "slow": 0} | sums
    return OutcomeDigest(reporter, sequence, "tool:crm", at_ms, at_ms, generation=generation, **fields)


def opened(it: Fleet) -> BreakerState:
    (change,) = it.take(digest(1, calls=10, failures=10), 0)
    return change.after


def test_digests_of_several_reporters_add_up():
    it = fleet()
    assert it.take(digest(1, calls=6, failures=6), 0) == ()
    (change,) = it.take(digest(1, reporter="w2", calls=6, failures=6), 0)
    assert (change.after.phase, change.after.epoch, change.after.number) == ("open", 1, 1)


def test_a_digest_that_is_delivered_twice_counts_once():
    it = fleet()
    first = digest(1, calls=6, failures=6)
    assert it.take(first, 0) == it.take(first, 0) == ()
    assert it.take(digest(2, calls=4, failures=4), 0) != ()


def test_a_digest_of_an_older_generation_changes_nothing():
    it = fleet(BreakerState("tool:crm", "closed", 3, 2, "the probe succeeded", 0), epoch=4)
    assert it.take(digest(1, generation="3.1", calls=20, failures=20), 0) == ()
    (change,) = it.take(digest(2, generation="3.2", calls=20, failures=20), 0)
    assert (change.after.epoch, change.after.number) == (4, 1)


def test_a_digest_from_before_an_outage_says_nothing_about_now():
    assert fleet().take(digest(1, calls=20, failures=20, at_ms=0), 31_000) == ()


def test_demand_gets_the_lease_and_its_probe_closes():
    it = fleet()
    opened(it)
    it.take(digest(7, reporter="shard-2", generation="1.1", short_circuited=3), 4_500)
    (lease,) = it.tick(5_000)
    assert (lease.after.probe_holder, lease.after.number) == ("shard-2", 2)
    assert it.take(digest(2, generation="1.1", probe="ok", calls=1), 5_100) == ()
    (change,) = it.take(digest(3, generation="1.2", probe="ok", calls=1), 5_200)
    assert change.after.phase == "closed"


def test_a_failed_probe_opens_again_and_says_by_what():
    it = fleet()
    opened(it)
    it.tick(5_000)
    (change,) = it.take(digest(2, generation="1.2", probe="failed", calls=1, failures=1, errors={"Timeout": 1}), 5_100)
    assert (change.after.phase, change.after.reason) == ("open", "the probe failed: Timeout")


def test_a_restart_forgets_nothing_that_is_in_the_topic():
    before = opened(fleet())
    after = fleet(before, epoch=2)
    assert after.state("tool:crm") == before
    (lease,) = after.tick(before.until_ms)
    assert (lease.after.phase, lease.after.epoch, lease.after.number) == ("half-open", 2, 1)


@given(st.lists(st.tuples(st.sampled_from(["w1", "w2"]), st.integers(1, 5)), max_size=40), st.randoms())
def test_however_often_and_in_which_order_digests_come_each_counts_at_most_once(deliveries, random):
    it = fleet()
    distinct = {(reporter, number) for reporter, number in deliveries}
    sent = [digest(number, reporter=reporter, calls=1) for reporter, number in deliveries]
    for each in [*sent, *random.sample(sent, len(sent))]:
        it.take(replace(each, to_ms=1), 1)
    machine = it._machines.get("tool:crm")
    assert (machine.window.calls if machine else 0) <= len(distinct)
