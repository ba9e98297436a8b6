"""Backpressure: whether retry-after is true, what a spike costs with it and without, and how fast its parts are.

Spikes run in virtual time through the product's own code on the simulated log (`pressed_lane`); the meter and the way
of a signal to producers are measured on Kafka. With `--plots FOLDER` the ten-times spike is drawn, with backpressure
and without.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
import uuid
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from streams.backpressure import BackpressurePolicy, Gate
from streams.backpressure.agent_queues import AgentQueues
from streams.backpressure.limits import limits
from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import LogRecord, Message, Partition, TopicSpec
from streams.broker.table import Table
from streams.records import encode, headers
from streams.records.control import BackpressureSignal
from tests.bench.broker import kafka
from tests.bench.pressed_lane import PARTITIONS, Run, run_lane
from tests.bench.pressed_lane_plots import plot

SPIKES, PERIOD_S, SPIKE_S = 20, 45.0, 3.0
SPIKES_POLICY = BackpressurePolicy(
    target_s=3, slow_s=6, close_s=12, least_records=40, dwell_s=1, ceiling_s=300, half_life_s=2
)
BASE_PER_S, TIMES, LONG_S, BEFORE_S = 1.0, 10.0, 600.0, 30.0
LONG_POLICY = BackpressurePolicy(least_records=20, dwell_s=1, ceiling_s=300)
OBJECTIVE_S = 2 * LONG_POLICY.close_s
"""How old an invocation that was admitted may get: the bound, and as much again for what comes in before it holds."""
METERED, CHANGES, PRODUCERS = 300_000, 300, 8
WARM_UP = 300
"""Changes before those that are measured: a broker that has just started is still compiling itself."""


async def run(plots: Path | None = None) -> None:
    """Print a line for the spikes, one for the long spike with and one without backpressure, and one for the speed."""
    with kafka() as bootstrap:
        figures = {**await meter(bootstrap, METERED), **await propagation(bootstrap, CHANGES, PRODUCERS, WARM_UP)}
        print(json.dumps({"bench": "backpressure", "case": "speed", **figures}), flush=True)
    spikes, obeyed, ignored = await asyncio.to_thread(_virtual)
    capacity = _throughput(ignored)
    print(json.dumps({"bench": "backpressure", "case": "spikes", **_spikes(spikes)}), flush=True)
    for name, found in (("on", obeyed), ("off", ignored)):
        line = {"bench": "backpressure", "case": "ten-times", "backpressure": name, **_long(found, capacity)}
        print(json.dumps(line), flush=True)
        if plots is not None:
            path = plots / f"backpressure-{name}.png"
            plot(found, f"Ten times the volume for {LONG_S / 60:g} minutes, backpressure {name}", path)


def _virtual() -> tuple[Run, Run, Run]:
    def spikes(at_s: float) -> float:
        return 160.0 if at_s % PERIOD_S >= PERIOD_S - SPIKE_S else 3.0

    def long(at_s: float) -> float:
        return BASE_PER_S * (TIMES if BEFORE_S <= at_s < BEFORE_S + LONG_S else 1.0)

    until_s = BEFORE_S + LONG_S + 700.0
    return (
        run_lane(spikes, SPIKES * PERIOD_S, SPIKES_POLICY, places=10)(),
        run_lane(long, until_s, LONG_POLICY, places=3)(),
        run_lane(long, until_s, LONG_POLICY, places=3, obey=False)(),
    )


def _spikes(found: Run) -> dict[str, Any]:
    """Compare the first closing of each spike with the truth."""
    policy, errors = found.policy, []
    target = limits(policy, PARTITIONS, found.capacity_per_s / PARTITIONS).target
    for number in range(SPIKES):
        spike_s = PERIOD_S * (number + 1) - SPIKE_S
        closings = [(t, s) for t, s in _changes(found) if s.level == "closed" and spike_s <= t < spike_s + PERIOD_S]
        if closings:
            at_s, signal = closings[0]
            true_s = found.at_target_s(at_s, target) - at_s
            errors.append(abs(signal.retry_after_s - true_s) / true_s)
    return {
        "spikes": len(errors),
        "retry_after_median_error": round(statistics.median(errors), 3),
        "retry_after_p90_error": round(sorted(errors)[int(len(errors) * 0.9)], 3),
        "flaps": _flaps(found),
        "lost": found.failed,
    }


def _long(found: Run, capacity_per_s: float) -> dict[str, Any]:
    """Compare the recovery from the long spike with the ideal one, in which nobody is ever idle."""
    ended_s = BEFORE_S + LONG_S
    target = found.policy.target_s * capacity_per_s
    answered = sorted(at_s for times in found.answered for at_s in times)
    recovered_s = next(at_s for at_s in answered if at_s > ended_s and _outstanding(found, answered, at_s) <= target)
    ideal_s = (_outstanding(found, answered, ended_s) - target) / (capacity_per_s - BASE_PER_S)
    return {
        "invocations": len(found.took_s),
        "lost": found.failed,
        "flaps": _flaps(found),
        "recovery_s": round(recovered_s - ended_s, 1),
        "recovery_ratio": round((recovered_s - ended_s) / ideal_s, 3),
        "max_age_s": round(max(found.took_s), 1),
        "objective_s": OBJECTIVE_S,
        "within_objective": max(found.took_s) <= OBJECTIVE_S,
    }


def _outstanding(found: Run, answered: list[float], at_s: float) -> int:
    return bisect_right(found.wanted, at_s) - bisect_right(answered, at_s)


def _throughput(found: Run) -> float:
    """Invocations per second that were answered while there was always more to do: the middle of the long spike."""
    begin_s, end_s = BEFORE_S + LONG_S / 3, BEFORE_S + LONG_S
    return sum(begin_s <= at_s < end_s for times in found.answered for at_s in times) / (end_s - begin_s)


def _changes(found: Run) -> list[tuple[float, BackpressureSignal]]:
    changes = found.signals[:1]
    for at_s, signal in found.signals:
        if signal.level != changes[-1][1].level:
            changes.append((at_s, signal))
    return changes


def _flaps(found: Run) -> int:
    """Count changes of level that came within a dwell of the one before; stamps of signals are 50 ms apart or less."""
    return sum(b - a < found.policy.dwell_s - 0.05 for (a, _), (b, _) in pairwise(_changes(found)[1:]))


async def meter(bootstrap: str, records: int) -> Mapping[str, Any]:
    """Return how many records of 300 bytes a second go through the meter, from the beginning of a log to its end."""
    broker, topic = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap)), f"bench-{uuid.uuid4().hex[:8]}.invocations"
    partitions = [Partition(topic, number) for number in range(4)]
    await broker.admin.create_topics([TopicSpec(topic, len(partitions))])
    async with broker.producer() as producer:
        for start in range(0, records, 5_000):
            await producer.send(*(_invocation(topic, n) for n in range(start, min(start + 5_000, records))))
    ends = await broker.admin.end_offsets(partitions)
    queues = AgentQueues(broker.admin, partitions)
    await queues.follow(dict.fromkeys(partitions, 0), dict.fromkeys(partitions, 0), budget_s=1.0)  # connects
    started, cpu = time.perf_counter(), time.process_time()
    await queues.follow(dict.fromkeys(partitions, 0), ends, budget_s=300.0)
    elapsed_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    depth = sum(queue.depth for queue in queues.queues().values())
    await broker.admin.delete_topics([topic])
    await broker.close()
    return {
        "meter_records_per_s": round(records / elapsed_s),
        "meter_records_per_cpu_s": round(records / cpu_s),
        "meter_exact": depth == records and not queues.uncounted,
    }


def _invocation(topic: str, number: int) -> Message:
    key = f"agent-{number % 7}/customer-{number % 997}"
    head = headers.public("invocation", record_id=f"{key}/{number}", source="bench", content_type=headers.AVRO_TYPE)
    return Message(topic, key.encode(), os.urandom(300), None, head)


async def propagation(bootstrap: str, changes: int, producers: int, warm_up: int = 0) -> Mapping[str, Any]:
    """Return how soon after its commit a change of level is known to each and to all of several producers."""
    broker, topic = (
        KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap)),
        f"bench-{uuid.uuid4().hex[:8]}.backpressure",
    )
    await broker.admin.create_topics([TopicSpec(topic, 1)])
    seen: list[float] = []
    everybody = asyncio.Event()
    gates = [Gate(lambda: 0.0, lambda _: None) for _ in range(producers)]

    def follow(gate: Gate, record: LogRecord) -> None:
        signal = gate.put(record.key or b"", record.value)
        if signal is not None:
            seen.append(time.perf_counter())
            if len(seen) == producers:
                everybody.set()

    each: list[float] = []
    delays: list[float] = []
    async with AsyncExitStack() as stack:
        for gate in gates:
            table = Table(broker, [Partition(topic, 0)])
            table.on_record(lambda record, gate=gate: follow(gate, record))  # type: ignore[misc]
            await (await stack.enter_async_context(table)).wait_loaded()
        ring = broker.ring(f"bench-{uuid.uuid4().hex[:8]}")
        await ring.start()
        for number in range(1, warm_up + changes + 1):
            level = "closed" if number % 2 else "open"
            signal = BackpressureSignal("invocations", level, 5.0, 1, 1.0, 1.0, 1.0, number, 1e9)
            seen.clear()
            everybody.clear()
            await ring.transact([Message(topic, b"invocations", encode(signal), 0)])
            committed = time.perf_counter()
            await asyncio.wait_for(everybody.wait(), 10)
            assert all((gate.check("invocations", "normal", number) is None) == (level == "open") for gate in gates)
            if number > warm_up:
                each += [at - committed for at in seen]
                delays.append(max(seen) - committed)
            await asyncio.sleep(0.005 + 0.02 * (number % 7) / 7)
        await ring.close()
    await broker.admin.delete_topics([topic])
    await broker.close()
    each.sort()
    delays.sort()
    return {
        "producers": producers,
        "each_p99_ms": round(each[int(len(each) * 0.99)] * 1e3, 2),
        "propagation_p50_ms": round(delays[len(delays) // 2] * 1e3, 2),
        "propagation_p99_ms": round(delays[int(len(delays) * 0.99)] * 1e3, 2),
    }


if __name__ == "__main__":
    asyncio.run(run())
