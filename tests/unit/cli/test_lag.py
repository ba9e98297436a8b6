"""`streams lag`: what is shown of a report, how it fits a terminal, and that it needs nothing but the log."""

import asyncio
import io
from collections.abc import Coroutine
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from rich.console import Console

from streams.backpressure import Gate, LagReport, PartitionLag, StageReport
from streams.broker.port import Message, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.cli.lag import Look, existing, lag
from streams.cli.lag_snapshot import Row, Snapshots, worst_first
from streams.cli.lag_table import lag_view, sparkline
from streams.control.settings import ControlSettings
from streams.errors import BrokerUnavailable, ConfigurationError, TopicError
from streams.records import encode
from streams.records.control import BackpressureSignal
from streams.records.load import Load, Queue
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run

SIGNAL = BackpressureSignal("invocations", "slow", 8.0, 47, 12.5, 9.0, 4.0, 100_000, 15.0, "partition 0 is full")


def lag_of(number: int, lag_s: float, unread: int = 40, silent_s: float = 0.0) -> PartitionLag:
    return PartitionLag(number, unread, Load(90_000, working=5, queued=2), lag_s, 9.0, 4.0, None, silent_s)


def report(*lags: PartitionLag, **fields: Any) -> LagReport:
    stages = (
        StageReport("invocations", "invocations", True, lags),
        StageReport("tool-calls", "tool-calls", True, (lag_of(0, 0.0, 0),)),
        StageReport("state-deltas", "state-deltas", False, (lag_of(0, 0.0, 0),)),
        StageReport("results", "results", False, (lag_of(0, 3.0, 9),)),
    )
    return LagReport(100_000, stages, {"dispute": Queue(42, 70_000), "idle": Queue(0, 0)}, **fields)


def shown(it: LagReport, published: bool = True, width: int = 120, **options: Any) -> str:
    signals = {"invocations": SIGNAL}
    estimated = {"invocations": replace(SIGNAL, retry_after_s=99.0)} if published else signals
    snapshot = Snapshots().take(it, signals if published else {}, estimated)
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(lag_view(snapshot, width=width, **options))
    return out.getvalue()


def test_each_lane_has_its_sums_and_each_partition_its_line() -> None:
    lines = shown(report(lag_of(0, 12.5), lag_of(1, 0.25))).splitlines()
    assert lines[2].split()[:9] == ["invocations", "all", "80", "14", "12.5", "s", "18.0", "8.0", "slow"]
    assert lines[3].split()[:5] == ["0", "40", "7", "12.5", "s"]
    assert lines[4].split()[:5] == ["1", "40", "7", "250", "ms"]


def test_what_nobody_reads_is_said_and_left_out_while_it_is_empty() -> None:
    text = shown(report(lag_of(0, 1.0)))
    assert "Nobody has read results yet." in text
    assert "state-deltas" not in text


def test_what_producers_are_told_and_why() -> None:
    text = shown(report(lag_of(0, 12.5)))
    assert " slow " in text
    assert " 8.0 s " in text
    assert "invocations: partition 0 is full" in text
    assert "~" not in text


def test_without_the_control_role_it_is_worked_out_and_marked() -> None:
    text = shown(report(lag_of(0, 12.5)), published=False)
    assert "~slow" in text
    assert "~8.0 s" in text
    assert "No control role tells producers" in text


def test_agents_that_wait_are_named_with_their_oldest() -> None:
    text = shown(report(lag_of(0, 12.5), uncounted=1_200))
    assert "Waiting: dispute 42 (oldest 30.0 s)" in text
    assert "1,200 unread invocations are not counted by agent yet" in text
    assert "idle" not in text


@pytest.mark.parametrize("height", [8, 12, 20, 40])
def test_it_fits_the_terminal_and_keeps_those_furthest_behind(height: int) -> None:
    text = shown(report(*(lag_of(number, float(number)) for number in range(48))), height=height)
    assert len(text.splitlines()) <= height
    if height >= 20:
        assert " 47 " in text
        assert ("others" in text) == (height < 60)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_figures_come_before_sparklines_where_there_is_little_room(width: int) -> None:
    text = shown(report(lag_of(0, 12.5)), width=width)
    assert max(map(len, text.splitlines()), default=0) <= width
    assert "12.5 s" in text
    assert "…" not in text


def test_a_table_that_is_not_up_to_date_says_so() -> None:
    assert "Not up to date: Kafka is away" in shown(report(lag_of(0, 1.0)), problem="Kafka is away")


def test_a_sparkline_has_a_bar_for_each_look() -> None:
    assert sparkline([0, 2, 4, 8]) == "▁▃▅█"
    assert sparkline([0.001, 0.002]) == "▁▁"


def test_sparklines_remember_a_bounded_past() -> None:
    snapshots = Snapshots()
    for number in range(100):
        snapshot = snapshots.take(report(lag_of(0, float(number))), {}, {})
    assert snapshot.lanes[0].partitions[0].history == tuple(map(float, range(70, 100)))


def test_the_worst_are_kept_in_the_order_of_their_numbers() -> None:
    rows = [Row(number, 0, 0, lag_s, 0, 0, 0, ()) for number, lag_s in enumerate((1.0, 9.0, 0.0, 5.0))]
    kept, left_out = worst_first(rows, 2)
    assert ([row.partition for row in kept], left_out) == ([1, 3], 2)


def test_json_has_everything_but_the_past() -> None:
    plain = Snapshots().take(report(lag_of(3, 12.5), uncounted=6), {"invocations": SIGNAL}, {}).plain()
    lane = plain["lanes"][0]
    assert (lane["lane"], lane["level"], lane["retry_after_s"], lane["published"]) == ("invocations", "slow", 8.0, True)
    assert lane["partitions"] == [
        {"partition": 3, "unread": 40, "open": 7, "lag_s": 12.5, "arrival_per_s": 9.0, "drain_per_s": 4.0,
         "silent_s": 0.0}
    ]  # fmt: skip
    assert plain["queues"] == [{"agent": "dispute", "depth": 42, "oldest_s": 30.0}]
    assert plain["uncounted"] == 6


def test_watching_needs_a_terminal_or_json() -> None:
    with pytest.raises(ConfigurationError, match="--json"):
        lag(namespace="ns", watch=True)


CATALOGUE = Catalogue("ns", 2, lanes={"invocations": ("bulk",)})


class World:
    """A namespace on a simulated log, without any role."""

    def __init__(self) -> None:
        self.log = SimulatedLog(Random(1))
        self.log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in CATALOGUE.topics()])
        self.broker = SimulatedBroker(self.log)
        self.gate = Gate(lambda: 0.0, lambda _: None)
        self.look = Look(self.broker, CATALOGUE, self.gate, ControlSettings(), self.log.now_ms)

    def write(self, count: int) -> None:
        name = CATALOGUE.name("invocations")
        self.log.write([Message(name, f"dispute/{n}".encode(), b"v", n % 2) for n in range(count)])


def world_runs(scenario: Coroutine[Any, Any, None]) -> None:
    run(scenario, max_time_s=600)


def test_the_log_alone_is_enough() -> None:
    async def scenario() -> None:
        world = World()
        world.write(10)
        snapshot = await world.look.sample()
        lane = snapshot.lanes[0]
        assert (lane.name, lane.total.unread, lane.consumed) == ("invocations", 10, False)
        assert lane.told is not None
        assert (lane.told.level, lane.told.published) == ("open", False)

    world_runs(scenario())


def test_a_signal_that_ran_out_is_not_what_producers_are_told() -> None:
    async def scenario() -> None:
        world = World()
        now_ms = world.log.now_ms()
        for at_ms, published in ((now_ms, True), (now_ms - 16_000, False)):
            world.gate = world.look._gate = Gate(lambda: 0.0, lambda _: None)
            world.gate.put(b"invocations", encode(replace(SIGNAL, at_ms=at_ms)))
            told = (await world.look.sample()).lanes[0].told
            assert told is not None
            assert told.published is published

    world_runs(scenario())


def test_lanes_and_partitions_are_those_that_exist() -> None:
    async def scenario() -> None:
        world = World()
        found = await existing(world.broker, Catalogue("ns", 48))
        assert (found.partitions, found.lanes["invocations"]) == (2, ("bulk",))
        with pytest.raises(TopicError, match="topics create"):
            await existing(world.broker, Catalogue("other", 4))

    world_runs(scenario())


def test_it_goes_on_when_the_log_is_back() -> None:
    async def scenario() -> None:
        world = World()
        world.write(4)
        await world.look.sample()
        world.log.outage(60)
        with pytest.raises(BrokerUnavailable):
            await world.look.sample()
        await asyncio.sleep(60)
        assert (await world.look.sample()).lanes[0].total.unread == 4

    world_runs(scenario())
