from dataclasses import replace

from streams.backpressure import BackpressurePolicy, Bounds, LagReport, PartitionLag, StageReport
from streams.control.lanes import Lanes
from streams.records.control import BackpressureSignal
from streams.records.load import Load

POLICY = BackpressurePolicy(
    target_records=10, slow_records=100, close_records=1_000, least_records=4, dwell_s=1, ttl_s=9, ceiling_s=600
)
BEHIND = {"llm-requests": Bounds(target_s=5, slow_s=30, close_s=60), "state-deltas": Bounds()}


def lag(backlog: int, *, arrival: float = 0.0, capacity: float | None = None, number: int = 0) -> PartitionLag:
    return PartitionLag(number, backlog, Load(0), 1.0, arrival, 0.0, capacity, 0.0)


def report(now_s: float, *stages: StageReport) -> LagReport:
    return LagReport(int(now_s * 1000), stages, {})


def own(*lags: PartitionLag, low: int = 0) -> StageReport:
    return StageReport("invocations", "invocations", True, lags, low)


def behind(kind: str, *lags: PartitionLag, consumed: bool = True) -> StageReport:
    return StageReport(kind, kind, consumed, lags)


def lanes() -> Lanes:
    return Lanes(POLICY, BEHIND)


def decide(it: Lanes, now_s: float, *stages: StageReport) -> BackpressureSignal:
    (signal,) = it.decide(report(now_s, *stages), now_s)
    return signal


def test_a_quiet_lane_repeats_its_signal_before_it_runs_out():
    it = lanes()
    assert [t for t in range(12) if it.decide(report(t, own(lag(5))), float(t))] == [0, 3, 6, 9]


def test_a_lane_under_load_tells_every_sample():
    it = lanes()
    signals = [decide(it, t, own(lag(2_000))) for t in range(4)]
    assert [signal.level for signal in signals] == ["closed"] * 4


def test_the_end_of_a_spike_is_told_at_once():
    it = lanes()
    assert [decide(it, t, own(lag(backlog))).level for t, backlog in ((0, 2_000), (5, 10), (10, 10))] == [
        "closed",
        "slow",
        "open",
    ]


def test_a_new_controller_goes_on_at_the_level_that_was_published():
    it = lanes()
    it.resume([BackpressureSignal("invocations", "closed", 5.0, 2_000, 1.0, 0.0, 0.0, 0, 9.0)], 10.0)
    assert decide(it, 10.5, own(lag(500))).level == "closed"


def test_a_closed_lane_answers_the_drain_time_although_producers_still_push():
    signal = decide(lanes(), 0.0, own(lag(2_410, arrival=90.0, capacity=30.0)))
    assert signal.retry_after_s == (2_410 - 10) / 30
    assert (signal.lag_records, signal.lag_s, signal.drain_per_s) == (2_410, 1.0, 30.0)
    assert signal.reason.startswith("invocations[0] has 2410 waiting or open and finishes 30.0/s")


def test_a_slow_lane_counts_the_arrivals_that_it_still_admits():
    it = lanes()
    assert decide(it, 0.0, own(lag(190, arrival=20.0, capacity=30.0))).retry_after_s == (190 - 10) / (30 - 20)
    halves = lanes()
    halves.decide(report(0.0, own(lag(0))), 0.0)
    spike = own(lag(190, arrival=20.0, capacity=30.0), low=10)
    assert decide(halves, 1.0, spike).retry_after_s == (190 - 10) / (30 - 10)


def test_a_lane_that_cannot_catch_up_answers_the_ceiling():
    assert decide(lanes(), 0.0, own(lag(200, arrival=50.0, capacity=30.0))).retry_after_s == 600


def test_one_hot_partition_decides_for_the_lane():
    signal = decide(lanes(), 0.0, own(lag(0, capacity=50.0), lag(505, capacity=10.0, number=1)))
    assert (signal.level, signal.retry_after_s) == ("closed", 50.0)


def test_a_saturated_dispatcher_is_lag_too():
    requests = behind("llm-requests", lag(1_000, arrival=20.0, capacity=10.0))
    signal = decide(lanes(), 0.0, own(lag(3)), requests)
    assert (signal.level, signal.lag_records) == ("closed", 3)
    assert signal.retry_after_s == (1_000 - 50) / 10
    assert signal.reason.startswith("llm-requests[0] has 1000")


def test_a_saturated_sink_is_lag_too_unless_there_is_none():
    deltas = behind("state-deltas", lag(100_000, capacity=1_000.0))
    it = lanes()
    assert decide(it, 0.0, own(lag(0)), deltas).level == "closed"
    assert decide(lanes(), 0.0, own(lag(0)), replace(deltas, consumed=False)).level == "open"
    assert decide(lanes(), 0.0, own(lag(0)), behind("results", lag(10**6))).level == "open"


def test_every_lane_has_a_signal_of_its_own():
    bulk = StageReport("invocations", "invocations.bulk", True, [lag(5_000)])
    signals = lanes().decide(report(0.0, own(lag(0)), bulk), 0.0)
    assert {signal.lane: signal.level for signal in signals} == {"invocations": "open", "invocations.bulk": "closed"}
