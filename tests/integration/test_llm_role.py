"""The role `llm` on the simulated log in virtual time, and on a real Kafka with the strict mock provider."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from random import Random

import orjson
import pytest

from streams.app import App
from streams.broker.partitioning import partition_for
from streams.broker.port import Broker, Message, Partition, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.table import read_to_end
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.function import FunctionProvider
from streams.llm.provider_errors import Refused, Unavailable
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.llm.usage import Usage
from streams.records import decode_as, encode
from streams.records.ids import agent_of
from streams.records.steps import LlmRequest, LlmResult, TokenChunk
from streams.records.topics import Catalogue
from streams.testing import virtual_time

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
    topic = catalogue.name("llm-requests")
    messages = []
    for request in requests:
        key = agent_of(request.invocation).encode()
        messages.append(Message(topic, key, encode(request), partition_for(key, catalogue.partitions)))
    async with broker.producer() as producer:
        await producer.send(*messages)


async def results_of(broker: Broker, catalogue: Catalogue, kind: str = "llm-results", record: type = LlmResult) -> list:
    partitions = [Partition(catalogue.name(kind), n) for n in range(catalogue.partitions)]
    found = []
    async for batch in read_to_end(broker, partitions):
        for one in batch:
            result = decode_as(record, one.value or b"")
            assert one.partition == partition_for(agent_of(result.invocation).encode(), catalogue.partitions)
            assert one.key == agent_of(result.invocation).encode()
            found.append(result)
    return found


async def wait_for_results(
    broker: Broker, catalogue: Catalogue, count: int, timeout_s: float = 60.0
) -> list[LlmResult]:
    async with asyncio.timeout(timeout_s):
        while len(found := await results_of(broker, catalogue)) < count:
            await asyncio.sleep(0.1)
    return found


class Simulation:
    """One log; roles come and go."""

    def __init__(self, function, partitions: int = 4, **pools) -> None:
        loop = asyncio.get_running_loop()
        self.log = SimulatedLog(Random(7))
        self.catalogue = Catalogue("app", partitions=partitions)
        self.broker = SimulatedBroker(self.log, "test")
        self.app = App("app")
        self.app.model("fast", fallback="sorry")
        self.clock = loop.time
        self.settings = LlmSettings(pools=pools or {"fast": PoolSettings(model="m")}, drain_s=0.5)
        self.providers = {name: FunctionProvider(function) for name in self.settings.pools}
        self.started = 0

    def role(self, **fields) -> LlmRole:
        self.started += 1
        return LlmRole(
            self.app,
            SimulatedBroker(self.log, f"llm-{self.started}"),
            self.catalogue,
            self.settings,
            providers=self.providers,
            now=wall,
            clock=self.clock,
            rng=Random(1),
            **fields,
        )

    @asynccontextmanager
    async def running(self, **fields):
        role = self.role(**fields)
        task = asyncio.create_task(role.run())
        try:
            yield role
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()):
                raise error

    async def ask(self, *requests: LlmRequest, timeout_s: float = 60.0) -> dict[str, LlmResult]:
        before = len(await results_of(self.broker, self.catalogue))
        await publish(self.broker, self.catalogue, *requests)
        found = await wait_for_results(self.broker, self.catalogue, before + len(requests), timeout_s)
        return {result.invocation: result for result in found}


def simulate(main):
    """Run an async test in virtual time."""

    def test():
        virtual_time.run(main(), seed=3, max_time_s=100_000)

    test.__name__ = main.__name__
    return test


@simulate
async def test_requests_are_answered_on_their_partition():
    async def answer(request: ChatRequest) -> ChatResponse:
        await asyncio.sleep(0.2)
        assert request.model == "m"
        return ChatResponse("yes", usage=Usage(7, 3))

    world = Simulation(answer, fast=PoolSettings(model="m", input_price=1_000_000.0, output_price=2_000_000.0))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        found = await world.ask(*(request_of(n) for n in range(50)))
    assert len(found) == 50
    result = found["dispute/c3/i3"]
    assert (result.status, result.attempts, result.served_by) == ("ok", 1, "fast:m")
    assert (result.input_tokens, result.output_tokens, result.cost) == (7, 3, 13.0)
    assert orjson.loads(result.value or b"") == {"text": "yes", "tool_calls": [], "finish_reason": "stop"}
