"""Requests and results of the role `llm`, written and read as shards do it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from streams.broker.partitioning import partition_for
from streams.broker.port import Broker, Message, Partition, TopicSpec
from streams.broker.table import read_to_end
from streams.records import decode_as, encode
from streams.records.ids import agent_of
from streams.records.steps import LlmRequest, LlmResult
from streams.records.topics import Catalogue

EPOCH_S = 1_700_000_000.0


def wall() -> float:
    return EPOCH_S + asyncio.get_running_loop().time()


def request_of(number: int, model: str = "fast", *, wait_s: float = 600.0, now: float | None = None, **fields):
    issued = int((wall() if now is None else now) * 1000)
    body = {"messages": [{"role": "user", "content": f"question {number}"}], "max_output_tokens": 100}
    return LlmRequest(
        invocation=f"dispute/c{number}/i{number}",
        incarnation=0,
        step=0,
        model=model,
        request=orjson.dumps(body),
        issued_at_ms=issued,
        deadline_ms=issued + int(wait_s * 1000),
        input_tokens=20,
        max_output_tokens=100,
        **fields,
    )


async def create_topics(broker: Broker, catalogue: Catalogue) -> None:
    await broker.admin.create_topics([TopicSpec(p.name, p.partitions) for p in catalogue.topics()])


async def publish(broker: Broker, catalogue: Catalogue, *requests: LlmRequest) -> None:
    messages, lanes = [], catalogue.lanes.get("llm-requests", ())
    for request in requests:
        topic = catalogue.name("llm-requests", request.model if request.model in lanes else "")
        key = agent_of(request.invocation).encode()
        messages.append(Message(topic, key, encode(request), partition_for(key, catalogue.partitions)))
    async with broker.producer() as producer:
        await producer.send(*messages)


async def results_of(
    broker: Broker, catalogue: Catalogue, kind: str = "llm-results", record: type[Any] = LlmResult
) -> list[Any]:
    partitions = [Partition(catalogue.name(kind), n) for n in range(catalogue.partitions)]
    found: list[Any] = []
    async for batch in read_to_end(broker, partitions):
        for one in batch:
            result: Any = decode_as(record, one.value or b"")
            assert one.partition == partition_for(agent_of(result.invocation).encode(), catalogue.partitions)
            assert one.key == agent_of(result.invocation).encode()
            found.append(result)
    return found


async def wait_for_results(
    broker: Broker, catalogue: Catalogue, count: int, timeout_s: float = 60.0
) -> list[LlmResult]:
    async with asyncio.timeout(timeout_s):
        while True:
            found = await results_of(broker, catalogue)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.1)
