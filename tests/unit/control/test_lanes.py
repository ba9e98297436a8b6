from streams.backpressure import BackpressurePolicy
from streams.control.lanes import Lane, lanes_of
from streams.records.control import BackpressureSignal
from streams.records.topics import Catalogue

POLICY = BackpressurePolicy(target_records=10, slow_records=100, close_records=1_000, dwell_s=1, ttl_s=9)


def lane() -> Lane:
    return Lane("invocations", POLICY)


def test_a_quiet_lane_repeats_its_signal_before_it_runs_out():
    it = lane()
    told = [t for t in range(12) if it.sample(float(t), t * 1000, {0: 5}, {0: 5}) is not None]
    assert told == [0, 3, 6, 9]


def test_a_lane_under_load_tells_every_sample():
    it = lane()
    it.sample(0.0, 0, {0: 0}, {0: 0})
    signals = [it.sample(float(t), t * 1000, {0: 0}, {0: 2_000}) for t in range(1, 5)]
    assert [signal.level for signal in signals if signal] == ["closed"] * 4


def test_the_end_of_a_spike_is_told_at_once():
    it = lane()
    it.sample(0.0, 0, {0: 0}, {0: 2_000})
    ended = it.sample(5.0, 5_000, {0: 2_000}, {0: 2_000})
    assert ended is not None
    assert (ended.level, ended.retry_after_s) == ("open", 0.0)


def test_a_new_controller_goes_on_at_the_level_that_was_published():
    it = lane()
    it.resume(BackpressureSignal("invocations", "closed", 5.0, 2_000, 1.0, 0.0, 0.0, 0, 9.0), 10.0)
    signal = it.sample(10.5, 10_500, {0: 1_500}, {0: 2_000})
    assert signal is not None
    assert signal.level == "closed"


def test_lanes_are_named_without_the_namespace():
    catalogue = Catalogue("payments", lanes={"invocations": ("bulk",), "tool-calls": ("slow",)})
    lanes = lanes_of(catalogue, POLICY)
    assert {topic: lane.name for topic, lane in lanes.items()} == {
        "payments.invocations": "invocations",
        "payments.invocations.bulk": "invocations.bulk",
    }
