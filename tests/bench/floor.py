"""The floor under the pipeline: the same Kafka hops with nothing in between.

A run goes client -> invocations -> shard, then three times shard -> calls -> worker -> call-results -> shard (model,
tool, model), and ends in results: four transactions. A shard reads its partition, keeps a dictionary, and commits one
transaction a batch from a ring of two producers; the worker echoes. What the product adds (engine, journal, Avro,
lanes, buckets, breakers) is measured against this in the same run. Shards, worker and client are three processes.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.bench.broker import kafka
from tests.bench.load import AGENTS, PARTITIONS, PAYLOAD, measure, processes

CALLS_PER_RUN = 3
CASES = ((1, 400), (50, 2_000), (1_000, 10_000))
"""Runs in flight, and how many in all."""

_Admin: Any = AIOKafkaAdminClient
_Consumer: Any = AIOKafkaConsumer
_Producer: Any = AIOKafkaProducer


@dataclass(frozen=True)
class Names:
    """Topics of the floor."""

    namespace: str

    def __getattr__(self, name: str) -> str:
        if name not in ("invocations", "calls", "call_results", "results", "journal"):
            raise AttributeError(name)
        return f"{self.namespace}.{name}"


async def run() -> None:
    """Print a line for each number of runs in flight."""
    with kafka() as bootstrap:
        for in_flight, runs in CASES:
            print(json.dumps(await floor(bootstrap, in_flight, runs)), flush=True)


async def floor(bootstrap: str, in_flight: int, runs: int) -> dict[str, Any]:
    """Return the figures of one case, on topics and processes of its own."""
    names = Names(f"floor-{uuid.uuid4().hex[:8]}")
    await _create_topics(bootstrap, names)
    arguments = {"bootstrap": bootstrap, "names": names}
    with processes((shards, arguments), (worker, arguments)):
        return {"bench": "floor", **await _client(bootstrap, names, in_flight, runs)}


async def _create_topics(bootstrap: str, names: Names) -> None:
    admin = _Admin(bootstrap_servers=bootstrap)
    await admin.start()
    topics = [NewTopic(n, PARTITIONS, 1) for n in (names.invocations, names.calls, names.call_results, names.results)]
    topics.append(NewTopic(names.journal, PARTITIONS, 1, topic_configs={"cleanup.policy": "compact"}))
    await admin.create_topics(topics)
    await admin.close()


async def shards(bootstrap: str, names: Names) -> None:
    """Own all partitions."""
    async with asyncio.TaskGroup() as group:
        for partition in range(PARTITIONS):
            group.create_task(_shard(bootstrap, names, partition))


async def _shard(bootstrap: str, names: Names, partition: int) -> None:
    ring = [
        _Producer(bootstrap_servers=bootstrap, transactional_id=f"{names.namespace}-{partition}-{i}", linger_ms=0)
        for i in range(2)
    ]
    for producer in ring:
        await producer.start()
    consumer = _Consumer(bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(names.invocations, partition), TopicPartition(names.call_results, partition)])
    open_runs: dict[str, dict[str, Any]] = {}
    commits = 0
    while True:
        batch = await consumer.getmany(timeout_ms=1000, max_records=1000)
        if not batch:
            continue
        outputs: list[tuple[str, str, dict[str, Any]]] = []
        journal: dict[str, dict[str, Any] | None] = {}
        for source, records in batch.items():
            for record in records:
                _take(orjson.loads(record.value), source.topic == names.invocations, names, open_runs, outputs, journal)
        cursor = {source.topic: records[-1].offset + 1 for source, records in batch.items()}
        producer = ring[commits % 2]
        commits += 1
        await producer.begin_transaction()
        sent = [
            await producer.send(topic, orjson.dumps(value), agent.encode(), partition)
            for topic, agent, value in outputs
        ]
        for run_id, value in journal.items():
            body = orjson.dumps(value) if value else None
            sent.append(await producer.send(names.journal, body, run_id.encode(), partition))
        sent.append(await producer.send(names.journal, orjson.dumps(cursor), b"cursor", partition))
        await asyncio.gather(*sent)
        await producer.commit_transaction()


def _take(
    event: dict[str, Any],
    is_new: bool,
    names: Names,
    open_runs: dict[str, dict[str, Any]],
    outputs: list[tuple[str, str, dict[str, Any]]],
    journal: dict[str, dict[str, Any] | None],
) -> None:
    run = open_runs.get(event["id"])
    if is_new:
        run = open_runs[event["id"]] = {"id": event["id"], "agent": event["agent"], "done": []}
    elif run is None:
        return
    else:
        run["done"].append(event["outcome"])
    if len(run["done"]) < CALLS_PER_RUN:
        outputs.append((names.calls, run["agent"], {"id": run["id"], "agent": run["agent"], "prompt": PAYLOAD}))
        journal[run["id"]] = run
    else:
        outputs.append((names.results, run["agent"], {"id": run["id"]}))
        journal[run["id"]] = None
        del open_runs[run["id"]]


async def worker(bootstrap: str, names: Names) -> None:
    """Answer all calls."""
    producer = _Producer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=0)
    await producer.start()
    consumer = _Consumer(
        names.calls,
        bootstrap_servers=bootstrap,
        group_id=f"{names.namespace}-workers",
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    while True:
        sent = []
        for source, records in (await consumer.getmany(timeout_ms=1000, max_records=1000)).items():
            for record in records:
                call = orjson.loads(record.value)
                answer = orjson.dumps({"id": call["id"], "agent": call["agent"], "outcome": PAYLOAD})
                sent.append(await producer.send(names.call_results, answer, record.key, source.partition))
        await asyncio.gather(*sent)


async def _client(bootstrap: str, names: Names, in_flight: int, runs: int) -> dict[str, float]:
    producer = _Producer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=0)
    await producer.start()
    consumer = _Consumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await consumer.start()
    consumer.assign([TopicPartition(names.results, p) for p in range(PARTITIONS)])
    await consumer.seek_to_end()
    for partition in consumer.assignment():
        await consumer.position(partition)
    waiting: dict[str, asyncio.Future[None]] = {}

    async def receive() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    if future := waiting.pop(orjson.loads(record.value)["id"], None):
                        future.set_result(None)

    async def one(number: int) -> None:
        run_id, agent = uuid.uuid4().hex, f"agent-{number % AGENTS}"
        waiting[run_id] = asyncio.get_running_loop().create_future()
        body = orjson.dumps({"id": run_id, "agent": agent, "input": PAYLOAD})
        await producer.send(names.invocations, body, agent.encode(), number % AGENTS % PARTITIONS)
        await waiting[run_id]

    receiver = asyncio.create_task(receive())
    try:
        return await measure(one, in_flight, runs)
    finally:
        receiver.cancel()
        await asyncio.wait([receiver])
        await producer.stop()
        await consumer.stop()
