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
