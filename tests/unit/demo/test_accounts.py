from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.demo.accounts import World

WORLD = World(seed=3, started_at=1000.0, change_every_s=10.0)


@given(st.integers(0, 50), st.floats(900, 1500))
def test_the_status_at_a_time_is_the_last_change_before_it(number, at):
    changes = list(islice(WORLD.schedule(f"cust-{number}"), 200))
    now = WORLD.status_at(f"cust-{number}", at)
    following = changes[now.version]
    assert now.version == 1 or now.valid_from <= at
    assert at < following.valid_from or now.version == 1


def test_every_change_is_one_and_versions_count():
    changes = list(islice(WORLD.schedule("cust-1"), 100))
    assert all(a.status != b.status for a, b in pairwise(changes))
    assert [change.version for change in changes] == list(range(1, 101))
    mean = (changes[-1].valid_from - 1000) / 99
    assert 6 < mean < 15


def test_two_processes_agree():
    assert World(3, 1000.0, 10.0).status_at("cust-9", 1234.5) == WORLD.status_at("cust-9", 1234.5)
    assert World(3, 1000.0, 10.0).orders("cust-9", "ord-1") == WORLD.orders("cust-9", "ord-1")


def test_the_order_asked_for_is_listed():
    orders = WORLD.orders("cust-1", "ord-5")
    assert len(orders.orders) == 3
    assert orders.find("ord-5") == WORLD.order("ord-5")
    assert orders.find("ord-6") is None


def test_a_world_that_never_changes_is_refused():
    with pytest.raises(ValueError, match="change_every_s must be above 0, got 0"):
        World(0, 0.0, 0)
