"""Each benchmark runs, small, and prints what others rely on. Times are not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streams.backpressure import BackpressurePolicy
from tests.bench import (
    backpressure,
    breaker,
    bulkhead,
    cascade,
    cold,
    engine,
    fleet,
    floor,
    gateway,
    metrics,
    open_invocations,
    pipeline,
    pressed_lane,
    restore,
    resume,
    sharing,
)
from tests.bench.load import measure

LOAD_FIELDS = {"bench", "in_flight", "runs", "p50_ms", "p99_ms", "runs_per_s"}


async def test_a_closed_loop_keeps_so_many_in_flight() -> None:
    seen: list[int] = []

    async def one(number: int) -> None:
        seen.append(number)

    figures = await measure(one, 3, 10)
    assert figures.keys() == LOAD_FIELDS - {"bench"}
    assert seen == [*range(10), *range(10)]


def test_engine_ends_every_run() -> None:
    figures = engine.three(100, 1)
    assert figures.keys() >= {"bench", "runs_per_s", "us_per_run", "with_state_runs_per_s"}


def test_an_invocation_of_many_steps_writes_so_much_a_step() -> None:
    figures = engine.long_invocation(1_000)
    assert figures["bytes_growth"] < 1.2


def test_metrics_have_their_price() -> None:
    figures = metrics.metrics(100, 1)
    assert 0 < figures["us_per_invocation"] < figures["scrape_of_full_histogram_ms"] * 1_000


def test_breakers_are_measured_beside_their_peers() -> None:
    lines = breaker.measure(100, 1)
    assert lines[0].keys() >= {"bench", "us_per_call", "us_best"}
    assert {"guard", "pybreaker", "purgatory"} <= {line["case"] for line in lines}


@pytest.mark.long
def test_the_cascade_happens_without_breakers_and_does_not_with_them(tmp_path: Path) -> None:
    scenes = [cascade.play(breakers=breakers, hours=0.25, compress=1, failure_rate=0.5) for breakers in (False, True)]
    without, with_breakers = (scene.lines()[2] for scene in scenes)
    assert with_breakers["success_rate"] > without["success_rate"]
    assert with_breakers["crm_calls"] < without["crm_calls"]
    assert all(line["success_rate"] == 1 for scene in scenes for line in scene.lines()[:2])
    cascade.draw(scenes, tmp_path / "cascade.png")
    assert (tmp_path / "cascade.png").stat().st_size > 10_000


def test_open_invocations_are_all_open() -> None:
    assert open_invocations.open_invocations(40).keys() >= {"bench", "open", "rss_mb"}


def test_a_pressed_lane_closes_loses_nothing_and_is_judged_by_what_the_log_says() -> None:
    policy = BackpressurePolicy(target_s=1, slow_s=2, close_s=4, least_records=8, dwell_s=1, ceiling_s=100)
    found = pressed_lane.run_lane(lambda at_s: 60.0 if 5 <= at_s < 8 else 2.0, 12.0, policy, places=5)()
    assert found.failed == 0
    assert len(found.took_s) == len(found.wanted) > 150
    assert "closed" in {signal.level for _, signal in found.signals}
    closed_s = next(at_s for at_s, signal in found.signals if signal.level == "closed")
    assert 5 < closed_s < 9
    # More was wanted than got in before the lane was closed; the rest came when it had opened again.
    assert sum(found.backlog(number, closed_s) for number in range(pressed_lane.PARTITIONS)) < 150
    assert closed_s < found.at_target_s(closed_s, 5) < closed_s + 30
    ignored = pressed_lane.run_lane(lambda at_s: 60.0 if 5 <= at_s < 8 else 2.0, 12.0, policy, places=5, obey=False)()
    assert max(ignored.took_s) > max(found.took_s)
    assert ignored.signals == []


async def test_meter_and_signals_are_measured(kafka: str) -> None:
    assert (await backpressure.meter(kafka, 5_000))["meter_exact"]
    figures = await backpressure.propagation(kafka, 5, 2)
    assert figures["propagation_p99_ms"] >= figures["propagation_p50_ms"]


@pytest.mark.long
async def test_a_dead_dependency_counts_one_probe_for_each_lease(kafka: str) -> None:
    figures = await fleet.fleet(kafka, 1)
    assert figures["probes"] == figures["leases"] >= 1
    assert figures.keys() >= {"open_p50_s", "open_max_s", "close_p50_s", "close_max_s"}


async def test_restore_finds_what_was_open(kafka: str) -> None:
    figures = await restore.restore(kafka, 30, 10)
    assert figures["open"] == 10
    assert figures["records"] > 60


@pytest.mark.slow
@pytest.mark.long
async def test_floor_and_pipeline_have_the_same_fields(kafka: str) -> None:
    below, product = await floor.floor(kafka, 5, 20), await pipeline.pipeline(kafka, 5, 20)
    assert below.keys() == product.keys() == LOAD_FIELDS
    assert (below["runs"], product["runs"]) == (20, 20)


@pytest.mark.slow
@pytest.mark.long
async def test_shards_resume_in_another_process_and_in_a_new_one(kafka: str) -> None:
    figures = await resume.resume(kafka, 0.5, in_flight=20, between_s=0)
    assert figures["results"] > 0
    assert figures.keys() >= {"taken_over_s", "restarted_s", "journal_records"}


@pytest.mark.slow
async def test_a_gateway_accepts_everything_it_is_asked(kafka: str) -> None:
    figures = await gateway.gateway(kafka, seconds=0.5, warm_up_s=0.2)
    assert figures["accepted_per_s"] > 0
    assert figures["refused"] == 0


async def test_shared_updates_lose_nothing_and_careless_writes_do(kafka: str) -> None:
    figures = await sharing.updates(kafka, 5, 8, 4)
    assert figures["lost_updates"] == 0
    assert 0 < figures["last_write_wins_lost"] < 32
    assert figures.keys() >= {"bench", "shared_updates_per_s", "update_p50_ms", "client_update_p50_ms"}


async def test_every_write_of_state_is_seen_becoming_durable(kafka: str) -> None:
    figures = await sharing.acknowledged(kafka, 20)
    assert figures["writes"] == 40  # the warm-up's too
    assert figures["write_ack_p50_ms"] >= figures["transaction_p50_ms"]


def test_a_hit_finds_every_state() -> None:
    assert cold.hit(200, 50).keys() == {"bench", "agents", "hit_us"}


@pytest.mark.slow
async def test_misses_bring_back_what_agents_remembered(kafka: str, postgres: str) -> None:
    figures = await cold.miss(kafka, postgres, 100, 40)
    assert figures["misses"] > 0
    assert figures["miss_p99_ms"] >= figures["miss_p50_ms"] > 0


def test_cases_are_listed() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--list"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {"backpressure", "breaker", "engine", "floor", "gateway", "memory", "pipeline", "restore", "resume"} <= {
        *listed.stdout.split()
    }


async def test_a_dead_tool_is_called_and_the_healthy_ones_answer(kafka: str) -> None:
    figures = await bulkhead.bulkhead(kafka, breakers=False, runs=300, rounds=1)
    assert figures["beside_the_dead"]["dead_calls"] > 0 == figures["alone"]["dead_calls"]
    assert figures.keys() >= {"bench", "healthy_throughput_ratio", "healthy_p99_ratio"}
