from typing import Any

from streams.breakers import BreakerSettings, BreakerView, Refusal
from streams.records import encode
from streams.records.control import BreakerState

KEY = b"tool:crm"


def state(phase: str, number: int = 1, **fields: Any) -> BreakerState:
    return BreakerState("tool:crm", phase, 1, number, "because", 0, **fields)


def view(*states: BreakerState) -> BreakerView:
    replica = BreakerView(BreakerSettings(grace_s=3))
    for each in states:
        replica.put(KEY, encode(each))
    return replica


def test_an_unknown_dependency_is_admitted():
    assert view().refuses("tool:crm", 0) is None
    assert view().admit("tool:crm", "shard-1", 0) == ""


def test_open_refuses_until_its_end_and_the_grace():
    replica = view(state("open", until_ms=5_000))
    assert replica.refuses("tool:crm", 7_999) == "because"
    assert replica.refuses("tool:crm", 8_000) is None


def test_forced_open_does_not_run_out():
    assert view(state("forced-open")).refuses("tool:crm", 10**12) == "because"


def test_closed_and_forced_closed_admit():
    for phase in ("closed", "forced-closed", "metrics-only"):
        assert view(state(phase)).refuses("tool:crm", 0) is None


def test_the_lease_gives_its_holder_one_stamp():
    replica = view(state("half-open", 7, probe_holder="shard-1", probe_expires_ms=2_000))
    assert isinstance(replica.admit("tool:crm", "shard-2", 10), Refusal)
    assert replica.admit("tool:crm", "shard-1", 11) == "1.7"
    assert isinstance(replica.admit("tool:crm", "shard-1", 12), Refusal)
    replica.put(KEY, encode(state("half-open", 8, probe_holder="shard-1", probe_expires_ms=4_000)))
    assert replica.admit("tool:crm", "shard-1", 2_001) == "1.8"


def test_refused_calls_are_reported_as_demand():
    replica = view(state("open", until_ms=5_000))
    for _ in range(3):
        replica.admit("tool:crm", "shard-1", 100)
    replica.admit("tool:crm", "shard-2", 100)
    first, second = replica.drain(200)
    assert (first.reporter, first.short_circuited, first.generation) == ("shard-1", 3, "1.1")
    assert (second.reporter, second.short_circuited) == ("shard-2", 1)
    assert replica.drain(300) == ()


def test_older_records_and_tombstones():
    replica = view(state("open", 5, until_ms=5_000), state("closed", 4))
    assert replica.refuses("tool:crm", 0) == "because"
    replica.put(KEY, None)
    assert replica.get("tool:crm") is None


def test_an_unreadable_record_is_counted_and_ignored():
    replica = view(state("open", until_ms=5_000))
    assert replica.put(KEY, b"junk") is None
    assert replica.unreadable == 1
    assert replica.states() == (state("open", until_ms=5_000),)
