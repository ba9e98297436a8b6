"""Changes to limits and budgets: what holds, who is told, what is refused."""

from dataclasses import replace

import pytest

from streams.errors import InvalidInput
from streams.llm.limits import KeyLimits
from streams.llm.live_limits import LiveLimits, changes_of, check_limit
from streams.llm.settings import PoolSettings, TenantBudget
from streams.records.control import Limit

FAST = PoolSettings(model="m", requests_per_minute=600, tokens_per_minute=9_000)
CHANGE = Limit("fast", "ana", "the key is shared today", 1, requests_per_minute=300.0, concurrency=4)


class Keys(dict[tuple[str, int], KeyLimits]):
    def configure(self, pool: str, key: int, limits: KeyLimits) -> None:
        self[pool, key] = limits


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def live(keys: Keys) -> LiveLimits:
    budgets = {"acme": TenantBudget(tokens=100), "*": TenantBudget(cost=1.0)}
    return LiveLimits({"fast": FAST}, {"fast": 2}, budgets, keys.configure)


def test_a_change_holds_over_the_settings_of_every_key_and_leaves_other_limits_alone(live, keys, caplog):
    live.put("fast", CHANGE)
    changed = FAST.model_copy(update={"requests_per_minute": 300.0, "concurrency": 4}).key_limits()
    assert keys == {("fast", 0): changed, ("fast", 1): changed}
    assert changed.tokens == FAST.key_limits().tokens
    assert live.changes_to("fast") == [CHANGE]
    assert "requests_per_minute 300, concurrency 4, set by ana: the key is shared today" in caplog.text


def test_the_latest_change_replaces_the_one_before(live, keys):
    live.put("fast", CHANGE)
    live.put("fast", replace(CHANGE, requests_per_minute=None, concurrency=9))
    assert keys["fast", 1] == FAST.model_copy(update={"concurrency": 9}).key_limits()


def test_one_key_can_have_limits_of_its_own_over_those_of_its_pool(live, keys):
    live.put("fast/2", replace(CHANGE, subject="fast/2", concurrency=None))
    assert keys["fast", 0] == FAST.key_limits()
    assert keys["fast", 1] == FAST.model_copy(update={"requests_per_minute": 300.0}).key_limits()
    live.put("fast", replace(CHANGE, requests_per_minute=50.0))
    assert keys["fast", 0] == FAST.model_copy(update={"requests_per_minute": 50.0, "concurrency": 4}).key_limits()
    assert keys["fast", 1] == FAST.model_copy(update={"requests_per_minute": 300.0, "concurrency": 4}).key_limits()
    assert [change.subject for change in live.changes_to("fast")] == ["fast", "fast/2"]


def test_a_tombstone_brings_back_what_is_configured(live, keys):
    live.put("fast", CHANGE)
    live.put("fast", None)
    assert keys["fast", 0] == keys["fast", 1] == FAST.key_limits()
    assert live.changes_to("fast") == []


@pytest.mark.parametrize("subject", ["slow", "fast/3", "fast/0", "fast/x"])
def test_a_pool_or_key_of_another_process_is_not_this_ones_business(live, keys, subject):
    live.put(subject, replace(CHANGE, subject=subject))
    assert keys == {}


def test_budgets_of_tenants_follow_their_changes_and_come_back(live):
    assert live.budget_of("acme") == TenantBudget(tokens=100)
    assert live.budget_of("other") == TenantBudget(cost=1.0)
    live.put("tenant:acme", Limit("tenant:acme", "ana", "paid more", 1, budget_cost=5.0))
    live.put("tenant:other", Limit("tenant:other", "ana", "trial", 1, budget_tokens=10))
    assert live.budget_of("acme") == TenantBudget(tokens=100, cost=5.0)
    assert live.budget_of("other") == TenantBudget(tokens=10)
    live.put("tenant:acme", None)
    live.put("tenant:other", None)
    assert live.budget_of("acme") == TenantBudget(tokens=100)
    assert live.budget_of("other") == TenantBudget(cost=1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"requests_per_minute": 0.0}, "requests_per_minute of 'fast' must be above 0 and finite, got 0"),
        ({"tokens_per_minute": -5.0}, "got -5"),
        ({"concurrency": 0}, "concurrency of 'fast' must be above 0"),
        ({"input_tokens_per_minute": float("inf")}, "got inf"),
        ({"requests_per_minute": None, "concurrency": None}, "changes nothing"),
        ({"budget_cost": 5.0}, "has budget_cost; a pool has requests_per_minute"),
        ({"subject": "tenant:acme"}, "a tenant has budget_tokens, budget_cost"),
        ({"subject": "tenant:"}, "names a pool"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_with_the_bound(wrong, said):
    with pytest.raises(InvalidInput) as caught:
        check_limit(replace(CHANGE, **wrong))
    assert said in str(caught.value)


def test_a_change_that_makes_no_sense_stops_nothing_and_is_named_in_the_log(live, keys, caplog):
    live.put("fast", CHANGE)
    before = dict(keys)
    live.put("fast", replace(CHANGE, requests_per_minute=-1.0, changed_by="bob"))
    assert keys == before
    assert live.changes_to("fast") == [CHANGE]
    assert "set by bob are ignored" in caplog.text


def test_what_a_record_changes_is_what_it_names():
    assert changes_of(CHANGE) == {"requests_per_minute": 300.0, "concurrency": 4}
