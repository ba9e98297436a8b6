"""The scheduler of a pool, driven in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.llm.bucket import NeverFits
from streams.llm.fair_queue import FairQueue, Held
from streams.llm.key_buckets import KeyBuckets
from streams.llm.limits import KeyLimits, Limit, Part
from streams.llm.scheduler import Choice, Grant, Scheduler
from streams.llm.usage import Usage


def held(
    item: str, size: int = 100, *, tenant: str = "", priority: str = "normal", at: float = 0.0, until: float = 1e9
):
    return Held(item, tenant, priority, Usage(size, 0), at, until)


def scheduler(limits: KeyLimits | None = None, keys: int = 1, *, full: bool = True, **fields) -> Scheduler[str]:
    return Scheduler([KeyBuckets(f"k{n}", limits or KeyLimits(), 0.0, full=full) for n in range(keys)], **fields)


def send_all(one: Scheduler[str], now: float) -> list[Grant[str]]:
    grants = []
    while len(one) and isinstance(choice := one.choose(now), Choice):
        grants.append(one.take(choice, now))
    return grants


def names(grants: list[Grant[str]]) -> list[str]:
    return [grant.held.item for grant in grants]


def test_older_goes_first_and_urgent_work_has_a_head_start():
    one = scheduler()
    for name, priority, at in (("a", "normal", 0.0), ("b", "low", 0.0), ("c", "high", 50.0), ("d", "high", 70.0)):
        one.add(held(name, priority=priority, at=at), at)
    assert names(send_all(one, 70.0)) == ["c", "a", "d", "b"]


def test_a_low_priority_is_not_overtaken_for_ever():
    one = scheduler()
    one.add(held("low", priority="low", at=0.0), 0.0)
    one.add(held("late", at=601.0), 601.0)
    assert names(send_all(one, 601.0)) == ["low", "late"]


def test_nothing_starts_beyond_the_concurrency_and_the_end_of_a_call_lets_the_next_go():
    one = scheduler(KeyLimits(concurrency=2))
    for name in "abc":
        one.add(held(name), 0.0)
    grants = send_all(one, 0.0)
    assert names(grants) == ["a", "b"]
    assert one.choose(1.0) == float("inf")
    one.settle(grants[0], None, 1.0)
    assert names(send_all(one, 1.0)) == ["c"]


def test_it_says_exactly_when_to_ask_again():
    one = scheduler(KeyLimits(requests=Limit(60, burst=1)))
    one.add(held("a"), 0.0)
    one.add(held("b"), 0.0)
    assert names(send_all(one, 0.25)) == ["a"]
    assert one.choose(0.25) == pytest.approx(1.25)
    assert names(send_all(one, 1.25)) == ["b"]


def test_calls_spread_over_keys_and_a_key_that_is_taken_out_gets_none():
    one = scheduler(KeyLimits(concurrency=10), keys=3)
    one.take_out(1, until=100.0)
    for number in range(10):
        one.add(held(str(number)), 0.0)
    assert Counter(grant.key for grant in send_all(one, 0.0)) == {0: 5, 2: 5}
    assert one.usable_keys(50.0) == 2
    assert one.next_key_back(50.0) == 100.0


def test_with_every_key_out_it_asks_again_when_the_first_comes_back():
    one = scheduler(keys=2)
    one.add(held("a"), 0.0)
    one.take_out(0, until=100.0)
    one.take_out(1, until=50.0)
    assert one.choose(10.0) == 50.0
    assert names(send_all(one, 50.0)) == ["a"]


def test_a_request_that_no_key_can_ever_take_is_refused_with_the_bound():
    one = scheduler(KeyLimits(input_tokens=Limit(100)), keys=2)
    with pytest.raises(NeverFits, match=r"101 input tokens .* holds 100"):
        one.add(held("a", 101), 0.0)


def test_a_request_that_shrunken_limits_make_too_large_leaves_and_the_next_goes():
    one = scheduler(KeyLimits(input_tokens=Limit(100)))
    one.add(held("big", 90), 0.0)
    one.add(held("small", 9), 0.0)
    one.change(KeyLimits(input_tokens=Limit(50)), 0.0)
    assert names(send_all(one, 1.0)) == ["small"]
    (leaver,) = one.leaving(1.0)
    assert leaver.held.item == "big"
    assert leaver.problem is not None


def test_expired_requests_leave():
    one = scheduler(KeyLimits(concurrency=1))
    for name, until in (("a", 30.0), ("b", 10.0), ("c", 20.0)):
        one.add(held(name, until=until), 0.0)
    assert one.queue.next_deadline() == 10.0
    assert [leaver.held.item for leaver in one.leaving(20.0)] == ["b", "c"]
    assert names(send_all(one, 20.0)) == ["a"]


def test_small_requests_go_past_a_big_one_but_only_as_much_as_it_asks_for_itself():
    one = scheduler(KeyLimits(tokens=Limit(6_000)), full=False)  # 100 a second
    one.add(held("big", 3_000), 0.0)
    now, passed, numbers = 0.0, 0, itertools.count()
    for _ in range(200):
        now += 1.0
        one.add(held(f"small {next(numbers)}", 50, at=now), now)
        sent = names(send_all(one, now))
        if "big" in sent:
            break
        passed += 50 * len(sent)
    assert 2_900 <= passed <= 3_050
    assert now <= 62  # 30 s for itself, as much again for what went past


def test_a_big_request_keeps_one_key_and_the_others_go_on():
    one = scheduler(KeyLimits(tokens=Limit(6_000)), keys=2, full=False)
    big = held("big", 5_000)
    big.passed = 5_000
    one.add(big, 0.0)
    sent: list[Grant[str]] = []
    for now in range(1, 51):
        one.add(held("small", 60, at=float(now)), float(now))
        sent += send_all(one, float(now))
    by_name = {grant.held.item: grant.key for grant in sent}
    assert set(by_name) == {"big", "small"}
    assert by_name["big"] != by_name["small"]
    assert sum(grant.held.item == "small" for grant in sent) >= 49


def serve_fairly(one: Scheduler[str], sizes: dict[str, list[int]], rounds: int, backlog: int) -> Counter[str]:
    """Keep every tenant's backlog filled and return the tokens that each was served."""
    served: Counter[str] = Counter()
    chance, now = random.Random(5), 0.0
    ends: list[tuple[float, int, Grant[str]]] = []
    order = itertools.count()
    have = dict.fromkeys(sizes, 0)
    for _ in range(rounds):
        for tenant, choices in sizes.items():
            while have[tenant] < backlog:
                one.add(held(tenant, chance.choice(choices), tenant=tenant, at=now), now)
                have[tenant] += 1
        for grant in send_all(one, now):
            have[grant.held.tenant] -= 1
            heapq.heappush(ends, (now + chance.uniform(0.5, 2), next(order), grant))
        now, _, grant = heapq.heappop(ends)
        used = max(1, grant.held.estimate.input_tokens // chance.choice([1, 2, 4]))
        served[grant.held.tenant] += used
        one.settle(grant, Usage(used, 0), now)
    return served


def test_ten_equal_tenants_get_equal_shares_whatever_they_ask_for():
    sizes = {f"t{n}": [50, 100, 200] for n in range(9)} | {"greedy": [10, 3_000]}
    served = serve_fairly(scheduler(KeyLimits(concurrency=20)), sizes, 20_000, 30)
    total, squares = sum(served.values()), sum(amount**2 for amount in served.values())
    assert total**2 / (10 * squares) >= 0.99


def test_weights_divide_the_service():
    sizes = {"heavy": [100], "light": [100]}
    served = serve_fairly(scheduler(KeyLimits(concurrency=4), weights={"heavy": 3.0}), sizes, 4_000, 10)
    assert served["heavy"] / served["light"] == pytest.approx(3.0, rel=0.05)


def test_a_tenant_that_comes_back_does_not_make_up_for_its_absence():
    one = scheduler(KeyLimits(concurrency=1))
    for number in range(100):
        one.add(held("busy", tenant="busy", at=float(number)), float(number))
        (grant,) = send_all(one, float(number))
        one.settle(grant, None, float(number))
    for _ in range(20):
        one.add(held("busy", tenant="busy", at=100.0), 100.0)
        one.add(held("back", tenant="back", at=100.0), 100.0)
    turns = []
    for _ in range(20):
        (grant,) = send_all(one, 100.0)
        turns.append(grant.held.tenant)
        one.settle(grant, None, 100.0)
    assert 8 <= turns.count("back") <= 12


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 500), st.floats(0, 50), st.booleans()), max_size=60
    ),
    st.integers(1, 3),
)
def test_every_request_leaves_exactly_once(asked, keys):
    one = scheduler(KeyLimits(tokens=Limit(6_000), concurrency=2), keys=keys, full=False)
    requests = [
        held(str(n), size, tenant=t, until=1e9 if stays else wait) for n, (t, size, wait, stays) in enumerate(asked)
    ]
    left: list[str] = []
    for one_held in requests:
        one.add(one_held, 0.0)
    now = 0.0
    running: list[Grant[str]] = []
    for _ in range(10_000):
        left += [leaver.held.item for leaver in one.leaving(now)]
        if not len(one) and not running:
            break
        grants = send_all(one, now)
        running += grants
        left += names(grants)
        again = one.choose(now)
        assert not isinstance(again, Choice)
        assert again > now or not len(one)
        if running and (again == float("inf") or len(running) > 2):
            one.settle(running.pop(0), None, now)
        else:
            now = min(again, one.queue.next_deadline(), now + 10)
    assert sorted(left) == sorted(request.item for request in requests)
    assert one.running == 0


def test_many_held_requests_cost_no_more_than_few():
    def cost(backlog: int) -> float:
        """Return the calls of functions that a request takes: as good as time, and the same on a busy machine."""
        one = scheduler(KeyLimits(concurrency=8), keys=2)
        chance = random.Random(1)
        for number in range(backlog):
            one.add(held("x", chance.randint(1, 4_000), tenant=f"t{number % 97}", at=number * 1e-3), 0.0)
        running = send_all(one, 0.0)
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            for number in range(400):
                one.add(held("x", chance.randint(1, 4_000), tenant=f"t{number % 97}", at=1e3 + number), 0.0)
                one.settle(running.pop(0), None, 0.0)
                running += send_all(one, 0.0)
        finally:
            sys.setprofile(None)
        return calls / 400

    few, many = cost(1_000), cost(100_000)
    assert many < 1.2 * few, f"{few:.0f} calls with 1,000 held, {many:.0f} with 100,000"


def test_tenants_without_work_are_forgotten():
    queue: FairQueue[str] = FairQueue()
    for number in range(20_000):
        one = held("x", tenant=f"t{number}")
        queue.add(one, 0.0)
        queue.serve(one)
        queue.settle(one, 0)
    assert len(queue._tenants) < 3_000


def test_a_request_too_large_for_the_part_here_lets_all_others_pass_until_there_is_a_larger_part():
    one = scheduler(KeyLimits(tokens=Limit(6000, burst=1000)))
    one.allot([Part(0.5, 0.5)], 0.0)
    one.add(held("big", 900), 0.0)
    for number in range(4):
        one.add(held(f"small {number}", 250), 0.0)
    assert names(send_all(one, 0.0)) == ["small 0", "small 1"]
    assert names(send_all(one, 10.0)) == ["small 2", "small 3"]
    assert one.needs() == 0.9
    one.allot([Part(1.0, 1.0)], 10.0)
    assert one.choose(10.0) == 19.0  # 900 tokens at 100 a second
    assert names(send_all(one, 19.0)) == ["big"]


def test_a_tenant_with_most_of_its_work_elsewhere_is_served_little_here():
    one = scheduler(KeyLimits(concurrency=1))
    one.queue.set_parts({"spread": 0.25})
    for number in range(50):
        for tenant in ("spread", "local"):
            one.add(held(tenant, tenant=tenant, at=float(number)), 0.0)
    sent: list[str] = []
    for _ in range(50):
        (grant,) = send_all(one, 0.0)
        sent += names([grant])
        one.settle(grant, None, 0.0)
    assert sent.count("spread") == 10
    assert one.queue.waiting() == {"spread": 40 * 101, "local": 10 * 101}
