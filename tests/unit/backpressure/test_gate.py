import math
from dataclasses import replace

import pytest

from streams.backpressure import Gate
from streams.records import encode
from streams.records.control import BackpressureSignal

LANE = "invocations"


def signal(level: str, *, wait_s: float = 8.0, at_ms: int = 1_000) -> BackpressureSignal:
    return BackpressureSignal(LANE, level, wait_s, 10, 1.0, 5.0, 5.0, at_ms, 15.0)


def gate(*signals: BackpressureSignal, unknown: str = "publish", luck: float = 0.0) -> tuple[Gate, list[str]]:
    warnings: list[str] = []
    it = Gate(lambda: luck, warnings.append, unknown=unknown)  # type: ignore[arg-type]
    for each in signals:
        it.put(LANE.encode(), encode(each))
    return it, warnings


@pytest.mark.parametrize(
    ("level", "priority", "waits"),
    [("open", "low", False), ("slow", "low", True), ("slow", "normal", False), ("slow", "high", False),
     ("closed", "low", True), ("closed", "normal", True), ("closed", "high", True)],
)  # fmt: skip
def test_who_waits_at_which_level(level, priority, waits):
    it, _ = gate(signal(level))
    assert it.check(LANE, priority, 1_000) == (8.0 if waits else None)


def test_the_wait_shrinks_as_time_passes():
    it, _ = gate(signal("closed"))
    assert it.check(LANE, "normal", 4_000) == 5.0
    assert it.check(LANE, "normal", 12_000) == 0.1


def test_waits_are_spread():
    it, _ = gate(signal("closed"), luck=0.5)
    assert it.check(LANE, "normal", 1_000) == pytest.approx(8.8)


def test_without_a_signal_it_publishes_warns_once_and_counts():
    it, warnings = gate()
    assert [it.check(LANE, "normal", t) for t in (1, 2, 3)] == [None] * 3
    (warning,) = warnings
    assert "none was ever published" in warning
    assert (it.counts.unknown, it.counts.admitted) == (3, 3)


def test_a_stale_signal_counts_as_unknown_and_a_new_one_arms_the_warning_again():
    it, warnings = gate(signal("closed"))
    assert it.check(LANE, "normal", 16_000) is None
    assert "older than its 15 s" in warnings[0]
    it.apply(signal("open", at_ms=20_000))
    it.check(LANE, "normal", 21_000)
    it.check(LANE, "normal", 40_000)
    assert len(warnings) == 2


def test_holding_back_without_a_signal_is_a_setting():
    it, _ = gate(unknown="hold")
    assert it.check(LANE, "high", 1) == 1.0


def test_older_signals_and_unreadable_ones_change_nothing():
    it, _ = gate(signal("closed", at_ms=2_000), signal("open", at_ms=1_000))
    assert it.put(LANE.encode(), b"junk") is None
    assert it.check(LANE, "normal", 2_000) == 8.0
    assert it.counts.unreadable == 1


def test_a_tombstone_forgets_the_lane():
    it, _ = gate(signal("closed"))
    it.put(LANE.encode(), None)
    assert it.signal(LANE, 1_000) is None


def admitted(it: Gate, from_ms: int, to_ms: int, step_ms: int = 10) -> int:
    """Let a thousand callers try every *step_ms*; return how many got through."""
    return sum(it.check(LANE, "normal", t) is None for t in range(from_ms, to_ms, step_ms) for _ in range(1_000))


def test_a_lane_that_opens_again_is_entered_slowly_and_twice_as_fast_after_each_two_seconds():
    it, _ = gate(signal("closed"), replace(signal("slow", at_ms=2_000), drain_per_s=100.0))
    it.check(LANE, "normal", 2_000)
    seconds = [admitted(it, t, t + 2_000) for t in range(2_000, 8_000, 2_000)]
    # 10/s at first: two seconds at a rate that doubles give 29, then twice as many each time.
    assert seconds == pytest.approx([30, 58, 115], abs=2)
    assert it.counts.paced > 0


def test_nobody_is_held_up_once_fewer_come_than_may():
    it, _ = gate(signal("closed"), replace(signal("open", at_ms=2_000), drain_per_s=1_000.0, ttl_s=99.0))
    assert [it.check(LANE, "normal", t) for t in range(2_000, 12_000, 100)] == [None] * 100
    assert admitted(it, 12_000, 12_010) == 1_000


def test_who_starts_long_after_a_lane_opened_is_not_held_up():
    it, _ = gate(signal("closed"), replace(signal("open", at_ms=2_000), ttl_s=99.0))
    assert admitted(it, 60_000, 60_010) == 1_000


def test_a_lane_that_closes_again_while_it_is_entered_is_closed():
    it, _ = gate(signal("closed"), signal("slow", at_ms=2_000))
    assert it.check(LANE, "normal", 2_000) is None
    it.apply(signal("closed", at_ms=2_500))
    assert it.check(LANE, "normal", 2_500) == 8.0


def test_a_lane_that_was_never_closed_is_entered_at_once():
    it, _ = gate(signal("slow"), signal("open", at_ms=2_000))
    assert admitted(it, 2_000, 2_010) == 1_000


def test_who_is_told_to_come_back_finds_room_then():
    it, _ = gate(signal("closed"), replace(signal("slow", at_ms=2_000), drain_per_s=100.0))
    now_ms, waits = 2_000, 0
    for _ in range(50):
        while (wait_s := it.check(LANE, "normal", now_ms)) is not None:
            now_ms += math.ceil(wait_s * 1000)
            waits += 1
    assert waits <= 50
