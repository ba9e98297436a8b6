"""The collector reads what roles count, and readiness says what they wait for."""

import asyncio
from random import random
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from streams.breakers import BreakerPolicy, Guard
from streams.llm.key_buckets import BucketStatus, KeyStatus
from streams.llm.pool_status import PoolCounts, PoolStatus
from streams.memory.sink import SinkCounts
from streams.observe import registry
from streams.observe.collect import RoleCollector, samples
from streams.observe.readiness import missing
from streams.shards.effects import Counters


def processor(*, ready=True, stuck="", **counters):
    started = asyncio.Event()
    if ready:
        started.set()
    engine = SimpleNamespace(counters=Counters(**counters), open_count=7, saturated=False)
    return SimpleNamespace(
        engine=engine, ready=started, stuck=stuck, transactions=5, written=50, restored_records=9, restored_s=0.25
    )  # fmt: skip


def shards(**processors):
    return SimpleNamespace(processors={int(name.removeprefix("p")): it for name, it in processors.items()})


def queue(partitions=(0, 1), open_calls=3):
    return SimpleNamespace(open_calls=open_calls, working=frozenset(partitions))


def guard(dependency):
    return Guard(dependency, BreakerPolicy(minimum_calls=1, window_calls=1), "worker-1", random)


def tripped(dependency):
    it = guard(dependency)
    it.record(it.admit(0), True, 0.01, 0, "TimeoutError")
    return it


def every_role():
    key = KeyStatus("fast/1", (BucketStatus("requests", 12.0, 60.0, 60.0),), 2, None, 0.0)
    status = PoolStatus("fast", 4, 2, 1.5, "", (key,), PoolCounts(sent=9, throttled=1))
    return {
        "shards": shards(p0=processor(accepted=10, finished={"succeeded": 8, "failed": 1}), p3=processor()),
        "tools": SimpleNamespace(queue=queue(), guards={"tool:crm": tripped("tool:crm")}),
        "llm": SimpleNamespace(
            queue=queue(),
            status=lambda: (status,),
            dispatcher=SimpleNamespace(pools={"fast": SimpleNamespace(guard=guard("llm:fast"))}),
        ),
        "memory": SimpleNamespace(guard=guard("postgres"), counts=SinkCounts(read=100, written=80)),
        "control": object(),
        "gateway": SimpleNamespace(address="127.0.0.1:1", responses={("submit", 202): 11}),
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
        ("streams_shard_restore_seconds", {"partition": "0"}, 0.25),
        ("streams_queue_open_calls", {"role": "tools"}, 3),
        ("streams_breaker_phase", {"role": "tools", "dependency": "tool:crm", "phase": "open"}, 1),
        ("streams_breaker_phase", {"role": "tools", "dependency": "tool:crm", "phase": "closed"}, 0),
        ("streams_breaker_phase", {"role": "memory", "dependency": "postgres", "phase": "closed"}, 1),
        ("streams_llm_held_requests", {"pool": "fast"}, 4),
        ("streams_llm_bucket_available", {"pool": "fast", "key": "fast/1", "quantity": "requests"}, 12),
        ("streams_memory_written_rows_total", {}, 80),
        ("streams_gateway_responses_total", {"route": "submit", "status": "202"}, 11),
        ("streams_role_ready", {"role": "control"}, 1),
    ],
)
def test_a_scrape_has_what_roles_counted(scraped, name, labels, value):
    assert scraped(name, labels) == value


def test_every_row_of_the_registry_has_a_reader():
    read = {sample.metric for sample in samples(every_role())}
    assert set(registry.METRICS) - read == {registry.SERIES_DROPPED}


def test_labels_are_those_that_the_registry_names():
    assert all(len(sample.labels) == len(sample.metric.labels) for sample in samples(every_role()))


def test_series_beyond_the_bound_are_left_out_and_counted():
    many = shards(**{f"p{number}": processor() for number in range(30)})
    scraped = CollectorRegistry()
    scraped.register(RoleCollector({"shards": many}, 20))
    assert scraped.get_sample_value("streams_shard_open_invocations", {"partition": "19"}) == 7
    assert scraped.get_sample_value("streams_shard_open_invocations", {"partition": "20"}) is None
    assert scraped.get_sample_value("streams_series_dropped", {"metric": "streams_shard_open_invocations"}) == 10


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


def test_a_queue_without_partitions_is_not_ready():
    it = SimpleNamespace(queue=queue(partitions=()), guards={})
    assert missing({"tools": it}) == {"tools": "no partition is read by this process"}
