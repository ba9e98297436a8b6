"""The role `llm` on the simulated log, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import orjson
import pytest

from streams.app import App
from streams.broker.port import Message, Partition
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.table import read_to_end
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.function import FunctionProvider
from streams.llm.headers import RateHeaders
from streams.llm.provider_errors import Refused, Throttled, Unavailable
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.llm.usage import Usage
from streams.records import decode_as, encode
from streams.records.control import BreakerState, DeadLetter, OutcomeDigest
from streams.records.steps import LlmRequest, LlmResult, TokenChunk
from streams.records.topics import Catalogue
from streams.testing import virtual_time
from tests.integration.llm_requests import (
    EPOCH_S,
    create_topics,
    publish,
    request_of,
    results_of,
    wait_for_results,
    wall,
)


class Simulation:
    """One log; roles come and go."""

    def __init__(self, function, partitions: int = 4, **pools) -> None:
        loop = asyncio.get_running_loop()
        self.log = SimulatedLog(Random(7), epoch_s=EPOCH_S)
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
            rng=Random(self.started),  # another one for each, as processes have: their names come from it
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


class Endpoint:
    """A model that counts what it is asked; told to fail by setting `fails`."""

    def __init__(self, takes_s: float = 0.5) -> None:
        self.takes_s = takes_s
        self.open = self.most = 0
        self.asked: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.times: list[float] = []
        self.fails: Callable[[ChatRequest], Exception | None] = lambda request: None

    async def __call__(self, request: ChatRequest) -> ChatResponse:
        self.asked[str(request.messages[0]["content"])] += 1
        self.models[request.model] += 1
        self.times.append(asyncio.get_running_loop().time())
        if (error := self.fails(request)) is not None:
            raise error
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.open -= 1
        return ChatResponse("yes", usage=Usage(20, 10))


@simulate
async def test_forty_at_once_against_a_limit_of_twenty():
    endpoint = Endpoint()
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=20))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        found = await world.ask(*(request_of(n) for n in range(45)))
    assert {result.status for result in found.values()} == {"ok"}
    assert endpoint.most == 20
    assert max(endpoint.asked.values()) == 1


@simulate
async def test_a_limit_is_held_until_the_deadline_and_expired_requests_are_not_sent():
    endpoint = Endpoint(takes_s=10.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=1))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        found = await world.ask(request_of(1, wait_s=60), request_of(2, wait_s=60), request_of(3, wait_s=-1),
                                request_of(4, wait_s=5))  # fmt: skip
    assert found["dispute/c1/i1"].status == found["dispute/c2/i2"].status == "ok"
    for number in (3, 4):
        result = found[f"dispute/c{number}/i{number}"]
        assert (result.status, result.cause, result.attempts) == ("failed", "deadline", 0)
    assert set(endpoint.asked) == {"question 1", "question 2"}


@simulate
async def test_what_the_provider_refuses_is_told_with_its_words():
    endpoint = Endpoint()
    endpoint.fails = lambda request: Refused(400, "messages[0]: too rude")
    world = Simulation(endpoint)
    await create_topics(world.broker, world.catalogue)
    async with world.running() as role:
        found = await world.ask(*(request_of(n) for n in range(30)))
        assert role.status()[0].down == ""
    result = found["dispute/c1/i1"]
    assert (result.status, result.error_message, result.attempts) == ("invalid", "messages[0]: too rude", 1)


@simulate
async def test_an_outage_is_held_and_then_answered_as_failed():
    endpoint = Endpoint()
    endpoint.fails = lambda request: Unavailable("status", "503: overloaded")
    world = Simulation(endpoint, fast=PoolSettings(model="m", max_hold_s=30))
    await create_topics(world.broker, world.catalogue)
    async with world.running() as role:
        started = world.clock()
        found = await world.ask(*(request_of(n) for n in range(100)))
        took_s = world.clock() - started
        assert "breaker" in role.status()[0].down
        assert role.status()[0].expected_wait_s == math.inf
    assert {(result.status, result.cause) for result in found.values()} == {("failed", "outage")}
    assert "503: overloaded" in found["dispute/c1/i1"].error_message
    assert 25 < took_s < 45
    assert endpoint.asked.total() < 400  # the breaker kept most away


@simulate
async def test_an_outage_that_ends_in_time_costs_nothing_but_time():
    endpoint = Endpoint()
    ends_at = world_time() + 20
    endpoint.fails = lambda request: Unavailable("status", "503") if world_time() < ends_at else None
    world = Simulation(endpoint, fast=PoolSettings(model="m", max_hold_s=60))
    await create_topics(world.broker, world.catalogue)
    async with world.running() as role:
        await asyncio.sleep(5)  # so that it has its partitions before there is anything in them
        found = await world.ask(*(request_of(n) for n in range(100)), timeout_s=120)
        counts = role.status()[0].counts
        assert counts.sent_again == endpoint.asked.total() - 100 == counts.unavailable
    assert {result.status for result in found.values()} == {"ok"}


@simulate
async def test_an_outage_is_held_until_the_deadline_where_that_is_wanted():
    endpoint = Endpoint()
    ends_at = world_time() + 300
    endpoint.fails = lambda request: Unavailable("connection", "refused") if world_time() < ends_at else None
    world = Simulation(endpoint, fast=PoolSettings(model="m", max_hold_s=5, on_outage="hold"))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        found = await world.ask(request_of(1, wait_s=100), *(request_of(n) for n in range(2, 30)), timeout_s=700)
    assert found.pop("dispute/c1/i1").cause == "deadline"
    assert {result.status for result in found.values()} == {"ok"}


@simulate
async def test_fallback_pools_answer_while_a_pool_is_down():
    endpoint = Endpoint()
    endpoint.fails = lambda request: Unavailable("status", "503") if request.model == "m" else None
    world = Simulation(
        endpoint,
        fast=PoolSettings(model="m", max_hold_s=30, fallback_pools=("dead", "small")),
        dead=PoolSettings(model="m"),
        small=PoolSettings(model="s"),
    )
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        started = world.clock()
        found = await world.ask(*(request_of(n) for n in range(100)))
        assert world.clock() - started < 10
    assert {(result.status, result.served_by, result.model) for result in found.values()} == {("ok", "small:s", "fast")}


@simulate
async def test_a_saturated_pool_does_not_hold_up_another():
    endpoint = Endpoint(takes_s=1.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=1), quick=PoolSettings(model="q"))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        await publish(world.broker, world.catalogue, *(request_of(n) for n in range(200)))
        await asyncio.sleep(5)
        await publish(world.broker, world.catalogue, *(request_of(n, "quick") for n in range(200, 300)))
        await asyncio.sleep(3)
        found = await results_of(world.broker, world.catalogue)
    assert sum(result.model == "quick" for result in found) == 100
    assert sum(result.model == "fast" for result in found) < 15


@simulate
async def test_a_pool_that_holds_all_it_may_leaves_the_rest_unread_and_another_pool_alone():
    endpoint = Endpoint(takes_s=1.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=1), quick=PoolSettings(model="q"))
    world.settings = world.settings.model_copy(update={"max_held": 10})
    world.catalogue = replace(world.catalogue, lanes={"llm-requests": ("fast", "quick")})
    await create_topics(world.broker, world.catalogue)
    lane = [Partition(world.catalogue.name("llm-requests", "fast"), n) for n in range(4)]
    async with world.running() as role:
        await publish(world.broker, world.catalogue, *(request_of(n) for n in range(200)))
        await asyncio.sleep(5)
        await publish(world.broker, world.catalogue, *(request_of(n, "quick") for n in range(200, 300)))
        await asyncio.sleep(10)
        found = await results_of(world.broker, world.catalogue)
        held = role.status()[0].held
        read = await world.broker.admin.group_offsets("app-llm", lane)
        assert sum(result.model == "quick" for result in found) == 100
        assert 30 <= held < 40  # ten of each partition, of which one is being answered
        assert sum(read.values()) < 25  # the rest is lag
        endpoint.takes_s = 0.01
        found = await wait_for_results(world.broker, world.catalogue, 300)
    assert {result.status for result in found} == {"ok"}


@simulate
async def test_a_killed_role_loses_nothing_and_does_not_ask_again_what_was_answered():
    endpoint = Endpoint(takes_s=2.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=10, timeout_s=5))
    await create_topics(world.broker, world.catalogue)
    requests = [request_of(n) for n in range(100)]
    await publish(world.broker, world.catalogue, *requests)
    role = world.role()
    process = role._broker.process  # type: ignore[attr-defined]
    process.spawn(role.run())
    await asyncio.sleep(9.0)
    process.kill()
    answered = {result.invocation for result in await results_of(world.broker, world.catalogue)}
    asked_before = Counter(endpoint.asked)
    assert 0 < len(answered) < 100
    async with world.running() as second:
        found = await wait_for_results(world.broker, world.catalogue, 100)
        counts = second.status()[0].counts
    assert counts.sent_again == counts.sent == 100 - len(answered)  # any of them may have been sent before
    assert Counter(result.invocation for result in found) == Counter(request.invocation for request in requests)
    again = {text for text, times in endpoint.asked.items() if times > 1}
    assert len(again) <= 10  # those that were under way
    assert not any(f"dispute/c{n}/i{n}" in answered for n in range(100) if f"question {n}" in again)
    assert asked_before.total() + len(again) <= 110


@simulate
async def test_requests_per_minute_are_kept_and_used():
    endpoint = Endpoint(takes_s=0.3)
    world = Simulation(endpoint, fast=PoolSettings(model="m", requests_per_minute=600))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        started = world.clock()
        await world.ask(*(request_of(n) for n in range(300)))
        took_s = endpoint.times[-1] - started
    assert 30 <= took_s < 31.5


@simulate
async def test_a_request_that_can_never_fit_fails_at_once_with_the_bound():
    world = Simulation(Endpoint(), fast=PoolSettings(model="m", tokens_per_minute=100))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        found = await world.ask(request_of(1))
    result = found["dispute/c1/i1"]
    assert (result.status, result.cause, result.attempts) == ("failed", "too_large", 0)
    assert "120 tokens" in result.error_message
    assert "97" in result.error_message


@simulate
async def test_a_pool_that_is_not_here_and_a_request_that_is_none_are_answered():
    world = Simulation(Endpoint())
    await create_topics(world.broker, world.catalogue)
    strange = replace(request_of(2), request=b"[]")
    async with world.running():
        found = await world.ask(request_of(1, "slow"), strange)
    assert found["dispute/c1/i1"].cause == "outage"
    assert "no model pool 'slow'; it has fast" in found["dispute/c1/i1"].error_message
    assert found["dispute/c2/i2"].status == "invalid"


@simulate
async def test_a_429_cools_the_key_and_the_request_waits():
    endpoint = Endpoint()
    told = RateHeaders(retry_after_s=20.0)
    endpoint.fails = lambda request: Throttled("slow down", told) if endpoint.asked.total() == 1 else None
    world = Simulation(endpoint)
    await create_topics(world.broker, world.catalogue)
    async with world.running() as role:
        found = await world.ask(request_of(1), timeout_s=100)
        status = role.status()[0]
    result = found["dispute/c1/i1"]
    assert (result.status, result.attempts) == ("ok", 2)
    assert endpoint.times[1] - endpoint.times[0] == pytest.approx(20, abs=0.1)
    assert (status.counts.throttled, status.counts.sent) == (1, 2)


@simulate
async def test_pieces_of_a_streamed_answer_go_to_their_topic():
    world = Simulation(Endpoint())
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        await world.ask(request_of(1, stream=True), request_of(2))
        await asyncio.sleep(1)
    chunks = await results_of(world.broker, world.catalogue, "tokens", TokenChunk)
    assert [(chunk.invocation, chunk.index, chunk.text) for chunk in chunks] == [("dispute/c1/i1", 0, "yes")]


@simulate
async def test_a_record_that_is_no_request_is_set_aside_and_the_others_go_on():
    world = Simulation(Endpoint())
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        async with world.broker.producer() as producer:
            await producer.send(Message(world.catalogue.name("llm-requests"), b"x", b"garbage", 0))
        found = await world.ask(*(request_of(n) for n in range(20)))
    assert len(found) == 20
    partitions = [Partition(world.catalogue.name("dead-letters"), n) for n in range(4)]
    letters = [one async for batch in read_to_end(world.broker, partitions) for one in batch]
    assert decode_as(DeadLetter, letters[0].value or b"").value == b"garbage"


@simulate
async def test_what_the_endpoint_does_is_reported_and_the_fleets_record_followed():
    endpoint = Endpoint()
    world = Simulation(endpoint)
    await create_topics(world.broker, world.catalogue)
    async with world.running() as role:
        await world.ask(*(request_of(n) for n in range(20)))
        await asyncio.sleep(1)
        fleet = [p for p in world.catalogue.topics() if p.kind.name == "outcomes"]
        partitions = [Partition(fleet[0].name, n) for n in range(fleet[0].partitions)]
        digests = [
            decode_as(OutcomeDigest, one.value or b"")
            async for batch in read_to_end(world.broker, partitions)
            for one in batch
        ]
        assert sum(digest.calls for digest in digests) == 20
        assert {digest.dependency for digest in digests} == {"llm:fast"}
        forced = BreakerState("llm:fast", "forced-open", 1, 1, "maintenance", int(wall() * 1000))
        async with world.broker.producer() as producer:
            topic = world.catalogue.name("breakers")
            await producer.send(Message(topic, b"llm:fast", encode(forced)))
            await asyncio.sleep(1)
            await publish(world.broker, world.catalogue, request_of(50))
            await asyncio.sleep(5)
            assert "maintenance" in role.status()[0].down
            assert "question 50" not in endpoint.asked
            opened = replace(forced, phase="closed", number=2)
            await producer.send(Message(topic, b"llm:fast", encode(opened)))
            await wait_for_results(world.broker, world.catalogue, 21)


@simulate
async def test_a_role_that_stops_ends_its_calls_and_sends_no_others():
    endpoint = Endpoint(takes_s=0.4)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=10))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        await publish(world.broker, world.catalogue, *(request_of(n) for n in range(100)))
        await asyncio.sleep(3)
        started, asked = world.clock(), endpoint.asked.total()
    assert world.clock() - started < 1.0
    assert endpoint.asked.total() == asked < 100
    assert len(await results_of(world.broker, world.catalogue)) == asked
    async with world.running():
        await wait_for_results(world.broker, world.catalogue, 100)
    assert max(endpoint.asked.values()) == 1


@simulate
async def test_two_processes_keep_within_the_limit_together():
    endpoint = Endpoint(takes_s=1.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=20))
    await create_topics(world.broker, world.catalogue)
    async with world.running(), world.running():
        await asyncio.sleep(10)
        endpoint.most = 0
        await world.ask(*(request_of(n) for n in range(200)))
    assert 16 <= endpoint.most <= 20


def world_time() -> float:
    return asyncio.get_running_loop().time()
