"""The role `llm` on a real Kafka, against the strict mock provider, whose counters are the truth."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streams.app import App
from streams.broker.kafka import KafkaBroker, KafkaSettings
from streams.demo.provider import Limits, MockConfig, MockProvider
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.records.topics import Catalogue
from tests.integration.llm_requests import create_topics, publish, request_of, wait_for_results

WORKER = """
import asyncio, sys
from streams.app import App
from streams.broker.kafka import KafkaBroker, KafkaSettings
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings
from streams.records.topics import Catalogue

async def main():
    servers, namespace, settings, name = sys.argv[1:]
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=servers))
    app, catalogue = App("app"), Catalogue(namespace, partitions=4)
    await LlmRole(app, broker, catalogue, LlmSettings.model_validate_json(settings), instance_id=name).run()

asyncio.run(main())
"""


class World:
    """A namespace of its own on the Kafka under test."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.broker = KafkaBroker(KafkaSettings(bootstrap_servers=servers))
        self.catalogue = Catalogue(f"llm-{uuid.uuid4().hex[:8]}", partitions=4)

    @asynccontextmanager
    async def running(self, settings: LlmSettings) -> AsyncIterator[LlmRole]:
        role = LlmRole(App("app"), self.broker, self.catalogue, settings)
        task = asyncio.create_task(role.run())
        try:
            yield role
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def process(self, settings: LlmSettings, name: str = "one") -> asyncio.subprocess.Process:
        arguments = ("-c", WORKER, self.servers, self.catalogue.namespace, settings.model_dump_json(), name)
        return await asyncio.create_subprocess_exec(sys.executable, *arguments)


@pytest.fixture
async def world(kafka: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("FAST_API_KEYS", "k1")
    one = World(kafka)
    await create_topics(one.broker, one.catalogue)
    yield one
    await one.broker.admin.delete_topics([plan.name for plan in one.catalogue.topics()])
    await one.broker.close()


def pool_at(mock: MockProvider, **limits) -> PoolSettings:
    """A pool of 20 calls at once, at a provider whose calls take 0.2 s whatever becomes of the caller."""
    return PoolSettings(base_url=mock.base_url, model="m", concurrency=20, abandoned_call_s=0.5, **limits)


async def test_a_crowd_at_a_limit_of_twenty_sees_no_429(world):
    config = MockConfig(limits=Limits(concurrency=20), latency_p50_s=0.05)
    async with MockProvider(config) as mock:
        settings = LlmSettings(pools={"fast": PoolSettings(base_url=mock.base_url, model="m", concurrency=20)})
        requests = [request_of(n, now=time.time()) for n in range(300)]
        async with world.running(settings):
            await publish(world.broker, world.catalogue, *requests)
            found = await wait_for_results(world.broker, world.catalogue, len(requests))
        seen = mock.stats.as_json(with_ids=False)
    assert {result.status for result in found} == {"ok"}
    assert len({result.invocation for result in found}) == len(found) == 300
    assert (seen["by_status"], seen["max_concurrency"]) == ({"200": 300}, 20)
    assert all(result.input_tokens > 0 and result.output_tokens > 0 for result in found)


async def test_after_kill_9_nothing_is_lost_and_nothing_answered_is_sent_again(world):
    config = MockConfig(limits=Limits(concurrency=20), latency_p50_s=0.2)
    async with MockProvider(config) as mock:
        settings = LlmSettings(pools={"fast": pool_at(mock)})
        requests = [request_of(n, now=time.time()) for n in range(300)]
        await publish(world.broker, world.catalogue, *requests)
        first = await world.process(settings)
        early = await wait_for_results(world.broker, world.catalogue, 100)
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        asked_before = Counter(mock.stats.request_ids)
        early = await wait_for_results(world.broker, world.catalogue, len(early))
        second = await world.process(settings)
        try:
            found = await wait_for_results(world.broker, world.catalogue, 300)
        finally:
            second.terminate()
            await second.wait()
        seen = mock.stats
    assert len(early) < 300
    assert Counter(result.invocation for result in found) == Counter(request.invocation for request in requests)
    assert len(seen.request_ids) == 300
    repeated = {name for name, times in seen.request_ids.items() if times > 1}
    assert len(repeated) <= 40  # those under way, and those answered whose result was not yet in the log
    assert asked_before.total() - len(early) >= len(repeated)
    assert seen.as_json(with_ids=False)["rejected_429"] == 0


async def test_at_most_once_nothing_is_sent_twice_by_successors_or_by_who_stood_still(world):
    config = MockConfig(limits=Limits(concurrency=20), latency_p50_s=0.2)
    async with MockProvider(config) as mock:
        settings = LlmSettings(pools={"fast": pool_at(mock, effect="at-most-once")})
        requests = [request_of(n, now=time.time()) for n in range(100)]
        await publish(world.broker, world.catalogue, *requests)
        workers = [await world.process(settings)]
        try:
            await wait_for_results(world.broker, world.catalogue, 20)
            os.kill(workers[0].pid, signal.SIGSTOP)
            # With the same name, so it takes over at once; when the first one wakes it must find itself fenced.
            workers.append(await world.process(settings))
            await wait_for_results(world.broker, world.catalogue, 60)
            os.kill(workers[0].pid, signal.SIGCONT)
            found = await wait_for_results(world.broker, world.catalogue, 100)
            while len({result.invocation for result in found}) < 100:
                # The one that stood still writes what it had asked before, after its successor's word.
                found = await wait_for_results(world.broker, world.catalogue, len(found) + 1)
        finally:
            for worker in workers:
                if worker.returncode is None:
                    worker.kill()
                    await worker.wait()
        asked = Counter(mock.stats.request_ids)
    assert set(asked.values()) == {1}
    outcomes = Counter((result.status, result.cause) for result in found)
    assert set(outcomes) == {("ok", ""), ("failed", "interrupted")}
    assert outcomes["failed", "interrupted"] <= 40  # those that were under way, of either


async def test_three_processes_keep_within_one_limit_while_one_is_killed_and_one_stands_still(world):
    limits = {"requests_per_minute": 2_400}
    config = MockConfig(limits=Limits(**limits, concurrency=20, burst_s=2.0), latency_p50_s=0.2)
    async with MockProvider(config) as mock:
        settings = LlmSettings(pools={"fast": pool_at(mock, **limits, burst_s=1.5)})
        requests = [request_of(n, now=time.time()) for n in range(500)]
        workers = [await world.process(settings, f"w{n}") for n in range(3)]
        try:
            await publish(world.broker, world.catalogue, *requests)
            await wait_for_results(world.broker, world.catalogue, 150)
            os.kill(workers[0].pid, signal.SIGKILL)
            await wait_for_results(world.broker, world.catalogue, 250)
            os.kill(workers[1].pid, signal.SIGSTOP)
            await asyncio.sleep(7.0)
            os.kill(workers[1].pid, signal.SIGCONT)
            wanted = {request.invocation for request in requests}
            found = await wait_for_results(world.broker, world.catalogue, 500)
            while {result.invocation for result in found} != wanted:
                # A process that stood still may answer what another one has answered.
                found = await wait_for_results(world.broker, world.catalogue, len(found) + 1)
        finally:
            for worker in workers:
                if worker.returncode is None:
                    worker.kill()
                    await worker.wait()
        by_status = sum((one.by_status for one in mock.stats.by_key.values()), Counter[int]())
    assert {result.status for result in found} == {"ok"}
    assert set(by_status) == {200}
    assert mock.stats.max_concurrency <= 20
