"""The collector reads what roles count, and readiness says what they wait for."""

import asyncio
from collections import Counter
from dataclasses import replace
from random import random
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from streams.agents.run import Request
from streams.backpressure import LagReport, PartitionLag
from streams.backpressure.gate import GateCounts
from streams.backpressure.monitor import StageReport
from streams.breakers import BreakerPolicy, BreakerView, Guard, closed
from streams.llm.key_buckets import BucketStatus, KeyStatus
from streams.llm.measures import LlmMeasures
from streams.llm.pool_status import PoolCounts, PoolStatus
from streams.llm.usage_counts import UsageCounts
from streams.memory.retention import RetentionCounts
from streams.memory.sink import SinkCounts
from streams.observe import registry
from streams.observe.collect import RoleCollector, Sample, fold, samples
from streams.observe.distribution import Distribution, Distributions
from streams.observe.readiness import missing
from streams.observe.registry import Metric
from streams.records.control import BackpressureSignal, BreakerState
from streams.records.invocations import Invocation, Result
from streams.records.journal import Completion
from streams.records.load import Load, Queue
from streams.records.steps import LlmResult
from streams.shards.cold import ColdCounters
from streams.shards.cold_reads import ColdReads
from streams.shards.effects import Counters
from streams.shards.flushed import Flushed
from streams.shards.measures import ShardMeasures
from streams.shards.memory import StateStore
from streams.shards.room import Room
from streams.tools.retry_budget import RetryBudget

INVOCATION = Invocation("dispute", "c-1", "k", b"", submitted_at_ms=100_000, deadline_ms=900_000)
COMPLETION = Completion(1, "child", "refund/c-7", "ok", 101.2, 0, degraded=True)
FALLEN_BACK = Completion(2, "tool", "crm", "ok", 101.2, 0, degraded=True, cause="timeout")
NO_FUTURE: Any = None
LAG = PartitionLag(3, 40, Load(90_000, working=5, queued=2), 12.5, 9.0, 4.0, None, 0.5)
REPORT = LagReport(
    100_000, (StageReport("invocations", "invocations", True, (LAG,)),), {"dispute": Queue(42, 70_000)}, uncounted=6
)  # fmt: skip
SIGNAL = BackpressureSignal("invocations", "slow", 8.0, 47, 12.5, 9.0, 4.0, 100_000, 15.0)
RESULT = Result(
    "dispute", "c-1", "k", "succeeded", degraded=True, input_tokens=250, output_tokens=50,
    submitted_at_ms=100_000, finished_at_ms=107_000,
)  # fmt: skip


def processor(*, ready=True, stuck="", **counters):
    started = asyncio.Event()
    if ready:
        started.set()
    engine = SimpleNamespace(
        counters=Counters(**counters), open_count=7, saturated=False, state=StateStore(),
        cold=SimpleNamespace(counters=ColdCounters(hits=90, misses=10)),
    )  # fmt: skip
    flushed = Flushed()
    flushed.wrote(1, 1, 640)
    return SimpleNamespace(
        keeper=SimpleNamespace(flushed=flushed), engine=engine, ready=started, stuck=stuck, transactions=5,
        written=50, restored_records=9, restored_s=0.25,
    )  # fmt: skip


def measured():
    it = ShardMeasures(("dispute",))
    it.start(INVOCATION, 100.5)
    it.step(Request(1, "child", "refund/c-7", b"", None, NO_FUTURE, 101.0), COMPLETION, 101.2)
    it.step(Request(2, "tool", "crm", b"", None, NO_FUTURE, 101.0), FALLEN_BACK, 101.2)
    it.end(RESULT)
    it.end(replace(RESULT, agent="made-up-by-a-producer", status="failed"))
    it.transaction(0.004, 12)
    it.batch(3)
    it.set_aside = 2
    return it


def cold_reads():
    it = ColdReads(
        SimpleNamespace(), guard("postgres"), linger_s=0, batch=1, now_ms=lambda: 0, clock=lambda: 0.0, luck=random
    )  # fmt: skip
    it.counters.agents = 40
    it.counters.took[()].add(0.02)
    return it


def flushed():
    counts = SinkCounts(read=100, written=80)
    counts.flushes[()].add(0.4)
    return counts


def shards(**processors):
    numbered = {int(name.removeprefix("p")): it for name, it in processors.items()}
    view = BreakerView()
    view.apply(BreakerState("tool:bank", "open", 1, 1, "half of its calls failed", 0))
    room = Room(1_000)
    room.count(0, 300)
    return SimpleNamespace(processors=numbered, measures=measured(), breakers=view, room=room, reads=(cold_reads(),))


def queue(partitions=(0, 1), open_calls=3):
    return SimpleNamespace(open_calls=open_calls, working=frozenset(partitions), set_aside=4, overflowed=9)


def guard(dependency):
    return Guard(dependency, BreakerPolicy(minimum_calls=1, window_calls=1), "worker-1", random)


def tripped(dependency):
    it = guard(dependency)
    it.record(it.admit(0), True, 0.01, 0, "TimeoutError")
    return it


def tools(attempts):
    budget = RetryBudget(0.0, 0.0, 0.0)
    while budget.spend(0.0):
        pass
    execution = SimpleNamespace(
        counts=Counter({("crm", "timeout"): 6}),
        places={"crm": SimpleNamespace(taken=2, waiting=5)},
        budgets={"crm": budget},
        unknown=Counter({"tomorrow": 1}),
    )
    return SimpleNamespace(
        queue=queue(), guards={"tool:crm": tripped("tool:crm")}, attempts=attempts, execution=execution,
        threads=SimpleNamespace(abandoned=Counter({"legacy": 3})),
    )  # fmt: skip


def every_role():
    key = KeyStatus("fast/1", (BucketStatus("requests", 12.0, 60.0, 60.0),), 2, None, 0.0, out_for_s=200.0)
    attempts = Distributions(registry.TOOL_ATTEMPT_SECONDS)
    attempts["crm", "failed"].add(5.0)
    answers = LlmMeasures(("fast",))
    answers.answer(LlmResult("dispute/c-1/k", 0, 1, "fast", "ok", input_tokens=90, held_s=0.2, elapsed_s=1.5))
    used = UsageCounts()
    used.count(LlmResult("a/b/c", 0, 1, "fast", "ok", output_tokens=7, cost=0.5, served_by="fast:m-1", tenant="acme"))
    status = PoolStatus("fast", 4, 2, 1.5, "", (key,), PoolCounts(sent=9, throttled=1))
    return {
        "shards": shards(
            p0=processor(accepted=10, finished={"succeeded": 8, "failed": 1}, shared_conflicts={"risk": 5}),
            p3=processor(),
        ),
        "tools": tools(attempts),
        "llm": SimpleNamespace(
            queue=queue(),
            measures=answers,
            usage=used,
            status=lambda: (status,),
            dispatcher=SimpleNamespace(pools={"fast": SimpleNamespace(guard=guard("llm:fast"))}),
        ),
        "memory": SimpleNamespace(guards=(guard("postgres"),), counts=flushed(), dropped=RetentionCounts(7, 2)),
        "control": SimpleNamespace(
            started=True,
            plane=SimpleNamespace(
                states=lambda: (closed("tool:crm"),),
                transitions=Counter({("tool:crm", "open"): 3}),
                unreadable=1,
                report=REPORT,
                signals={"invocations": SIGNAL},
            ),
        ),
        "gateway": SimpleNamespace(
            address="127.0.0.1:1", responses={("submit", 202): 11}, admissions=GateCounts(9, 2, 1)
        ),
    }


@pytest.fixture
def scraped():
    it = CollectorRegistry()
    it.register(RoleCollector(every_role(), 1_000))
    return it.get_sample_value


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("streams_shard_open_invocations", {"partition": "3"}, 7),
        ("streams_shard_accepted_invocations_total", {"partition": "0"}, 10),
        ("streams_shard_finished_invocations_total", {"partition": "0", "status": "failed"}, 1),
        ("streams_shard_shared_conflicts_total", {"partition": "0", "name": "risk"}, 5),
        ("streams_shard_restore_seconds", {"partition": "0"}, 0.25),
        ("streams_shard_state_misses_total", {"partition": "0"}, 10),
        ("streams_shard_state_dirty_bytes", {"partition": "3"}, 640),
        ("streams_state_cache_bytes", {}, 300),
        ("streams_cold_read_agents_total", {}, 40),
        ("streams_queue_open_calls", {"role": "tools"}, 3),
        ("streams_breaker_phase", {"role": "tools", "dependency": "tool:crm", "phase": "open"}, 1),
        ("streams_breaker_phase", {"role": "tools", "dependency": "tool:crm", "phase": "closed"}, 0),
        ("streams_breaker_phase", {"role": "memory", "dependency": "postgres", "phase": "closed"}, 1),
        ("streams_breaker_phase", {"role": "shards", "dependency": "tool:bank", "phase": "open"}, 1),
        ("streams_tool_attempt_seconds_sum", {"tool": "crm", "outcome": "failed"}, 5),
        ("streams_tool_calls_total", {"tool": "crm", "outcome": "timeout"}, 6),
        ("streams_tool_running_calls", {"tool": "crm"}, 2),
        ("streams_tool_waiting_calls", {"tool": "crm"}, 5),
        ("streams_tool_overflowed_calls", {}, 9),
        ("streams_tool_unknown_calls", {"tool": "tomorrow"}, 1),
        ("streams_tool_abandoned_threads", {"tool": "legacy"}, 3),
        ("streams_tool_denied_retries_total", {"tool": "crm"}, 1),
        ("streams_fallbacks_total", {"kind": "tool", "name": "crm", "cause": "timeout"}, 1),
        ("streams_llm_key_out", {"pool": "fast", "key": "fast/1"}, 1),
        ("streams_llm_tokens_total", {"pool": "fast", "direction": "input"}, 90),
        ("streams_llm_held_seconds_sum", {"pool": "fast"}, 0.2),
        ("streams_llm_call_seconds_sum", {"pool": "fast", "outcome": "ok"}, 1.5),
        ("streams_breaker_phase", {"role": "control", "dependency": "tool:crm", "phase": "closed"}, 1),
        ("streams_breaker_calls_total", {"role": "tools", "dependency": "tool:crm", "outcome": "failed"}, 1),
        ("streams_breaker_calls_total", {"role": "tools", "dependency": "tool:crm", "outcome": "ok"}, 0),
        (
            "streams_breaker_transitions_total",
            {"role": "tools", "dependency": "tool:crm", "phase": "open", "decided_by": "local"},
            1,
        ),
        (
            "streams_breaker_transitions_total",
            {"role": "control", "dependency": "tool:crm", "phase": "open", "decided_by": "fleet"},
            3,
        ),
        ("streams_llm_usage_output_tokens_total", {"tenant": "acme", "model": "m-1"}, 7),
        ("streams_llm_usage_cost_total", {"tenant": "acme", "model": "m-1"}, 0.5),
        ("streams_llm_held_requests", {"pool": "fast"}, 4),
        ("streams_llm_bucket_available", {"pool": "fast", "key": "fast/1", "quantity": "requests"}, 12),
        ("streams_memory_written_rows_total", {}, 80),
        ("streams_memory_flush_seconds_sum", {}, 0.4),
        ("streams_cold_read_query_seconds_sum", {}, 0.02),
        ("streams_gateway_responses_total", {"route": "submit", "status": "202"}, 11),
        ("streams_role_ready", {"role": "control"}, 1),
        ("streams_lag_records", {"lane": "invocations", "partition": "3"}, 40),
        ("streams_lag_seconds", {"lane": "invocations", "partition": "3"}, 12.5),
        ("streams_lag_open_records", {"lane": "invocations", "partition": "3"}, 7),
        ("streams_lag_drained_per_second", {"lane": "invocations", "partition": "3"}, 4),
        ("streams_queue_depth", {"agent": "dispute"}, 42),
        ("streams_queue_oldest_seconds", {"agent": "dispute"}, 30),
        ("streams_queue_uncounted", {}, 6),
        ("streams_lane_level", {"lane": "invocations", "level": "slow"}, 1),
        ("streams_lane_level", {"lane": "invocations", "level": "closed"}, 0),
        ("streams_lane_retry_after_seconds", {"lane": "invocations"}, 8),
        ("streams_gateway_admissions_total", {"decision": "refused"}, 2),
        ("streams_gateway_unknown_admissions_total", {}, 1),
        ("streams_dead_letters_total", {"role": "shards"}, 2),
        ("streams_dead_letters_total", {"role": "tools"}, 4),
        ("streams_invocation_seconds_bucket", {"agent": "dispute", "outcome": "degraded", "le": "5.0"}, 0),
        ("streams_invocation_seconds_bucket", {"agent": "dispute", "outcome": "degraded", "le": "10.0"}, 1),
        ("streams_invocation_seconds_bucket", {"agent": "dispute", "outcome": "degraded", "le": "+Inf"}, 1),
        ("streams_invocation_seconds_sum", {"agent": "dispute", "outcome": "degraded"}, 7),
        ("streams_invocation_seconds_count", {"agent": "other", "outcome": "failed"}, 1),
        ("streams_invocation_wait_seconds_sum", {"agent": "dispute"}, 0.5),
        ("streams_invocation_tokens_sum", {"agent": "dispute"}, 300),
        ("streams_step_seconds_count", {"kind": "child", "name": "refund", "outcome": "degraded"}, 1),
        ("streams_transaction_seconds_bucket", {"le": "0.005"}, 1),
        ("streams_transaction_seconds_bucket", {"le": "0.0025"}, 0),
        ("streams_transaction_records_sum", {}, 12),
        ("streams_batch_records_sum", {}, 3),
    ],
)
def test_a_scrape_has_what_roles_counted(scraped, name, labels, value):
    assert scraped(name, labels) == value


def test_every_row_of_the_registry_has_a_reader():
    read = {sample.metric for sample in samples(every_role())}
    assert set(registry.METRICS) - read == {registry.SERIES_FOLDED, registry.LOG_UP}


def test_labels_are_those_that_the_registry_names():
    assert all(len(sample.labels) == len(sample.metric.labels) for sample in samples(every_role()))


def test_series_beyond_the_bound_are_one_and_counted():
    many = shards(**{f"p{number}": processor() for number in range(30)})
    scraped = CollectorRegistry()
    scraped.register(RoleCollector({"shards": many}, 20))
    assert scraped.get_sample_value("streams_shard_open_invocations", {"partition": "19"}) == 7
    assert scraped.get_sample_value("streams_shard_open_invocations", {"partition": "20"}) is None
    assert scraped.get_sample_value("streams_shard_open_invocations", {"partition": "other"}) == 70
    assert scraped.get_sample_value("streams_series_folded", {"metric": "streams_shard_open_invocations"}) == 10


def test_the_1001st_series_is_other():
    metric = Metric("counter", "records", "Of a test", "streams_test", ("name",))
    found = [Sample(metric, 1, (str(number),)) for number in range(1_001)]
    assert [sample.labels for sample in fold(metric, found, 1_000)[999:]] == [("999",), ("other",)]


@pytest.mark.parametrize(("unit", "folded"), [("seconds", 9), ("1 or 0", 9), ("calls", 10)])
def test_ages_are_folded_to_the_oldest_and_counts_to_their_sum(unit, folded):
    metric = Metric("gauge", unit, "Of a test", "streams_test", ("name",))
    found = [Sample(metric, value, (str(value),)) for value in (5, 1, 9)]
    assert fold(metric, found, 1)[-1].value == folded


def test_histograms_are_folded_bucket_by_bucket():
    metric = Metric("histogram", "seconds", "Of a test", "streams_test", ("name",), (1.0, 2.0))
    several = Distributions(metric)
    for name, value in (("a", 0.5), ("b", 1.5), ("c", 1.5), ("c", 7.0)):
        several[(name,)].add(value)
    kept, other = fold(metric, [Sample(metric, it, labels) for labels, it in several.items()], 1)
    assert (kept.labels, other.labels) == (("a",), ("other",))
    assert isinstance(other.value, Distribution)
    assert (other.value.counts, other.value.total) == ([0, 2, 1], 10.0)


def test_a_process_is_ready_when_its_shards_read_and_its_queues_are_assigned():
    assert missing(every_role()) == {}


@pytest.mark.parametrize(
    ("role", "reason"),
    [
        (shards(), "no shard is assigned to this process"),
        (shards(p0=processor(), p2=processor(ready=False)), "shards being restored: 2"),
        (shards(p1=processor(stuck="BrokerUnavailable: away")), "shard 1 is stuck: BrokerUnavailable: away"),
    ],
)
def test_shards_say_what_they_wait_for(role, reason):
    assert missing({"shards": role}) == {"shards": reason}


def test_a_control_process_that_does_not_sample_the_log_has_no_lag():
    plane = SimpleNamespace(states=tuple, transitions={}, unreadable=0, report=None, signals={})
    found = samples({"control": SimpleNamespace(started=True, plane=plane)})
    assert [sample.metric for sample in found] == [registry.ROLE_READY, registry.CONTROL_UNREADABLE]


def test_what_a_sink_would_read_has_no_lag_where_there_is_no_sink():
    stages = [StageReport(kind, kind, consumed, (LAG,)) for kind, consumed in
              (("invocations", False), ("state-deltas", False), ("results", True))]  # fmt: skip
    plane = every_role()["control"].plane
    plane.report = LagReport(100_000, tuple(stages), {})
    found = samples({"control": SimpleNamespace(started=True, plane=plane)})
    assert [it.labels[0] for it in found if it.metric is registry.LAG_SECONDS] == ["invocations", "results"]


def test_control_is_ready_once_it_decides():
    assert missing({"control": SimpleNamespace(started=False)}) == {"control": "Faust has not started yet"}


def test_a_queue_without_partitions_is_not_ready():
    it = SimpleNamespace(queue=queue(partitions=()))
    assert missing({"tools": it}) == {"tools": "no partition is read by this process"}
