"""Pools that are at-most-once: whatever dies, freezes or fails, no request is done twice at the provider."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from streams.broker.simulated.process import Process
from streams.llm.chat import ChatRequest
from streams.llm.headers import RateHeaders
from streams.llm.pool_status import PoolCounts
from streams.llm.provider_errors import ProviderError, Throttled, Unauthorized, Unavailable
from streams.llm.settings import PoolSettings
from streams.records.steps import LlmResult, ToolClaim
from streams.testing import virtual_time
from tests.integration.llm_requests import create_topics, publish, request_of, results_of, wait_for_results
from tests.integration.test_llm_role import Endpoint, Simulation, simulate


def first_results(found: list[LlmResult]) -> dict[str, LlmResult]:
    """Return the result of each request that its shard takes: the first."""
    return {result.invocation: result for result in reversed(found)}


def start(world: Simulation) -> Process:
    role = world.role()
    process: Process = role._broker.process  # type: ignore[attr-defined]
    process.spawn(role.run())
    return process


async def wait_for_calls(endpoint: Endpoint, count: int) -> None:
    async with asyncio.timeout(60):
        while endpoint.asked.total() < count:  # noqa: ASYNC110 - the endpoint gives no event
            await asyncio.sleep(0.05)


@simulate
async def test_the_successor_of_a_killed_dispatcher_answers_what_was_sent_as_interrupted():
    endpoint = Endpoint(takes_s=2.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=10, timeout_s=5, effect="at-most-once"))
    await create_topics(world.broker, world.catalogue)
    first = start(world)
    await publish(world.broker, world.catalogue, *(request_of(n) for n in range(40)))
    await wait_for_calls(endpoint, 20)
    first.kill()
    under_way = set(endpoint.asked) - {
        f"question {r.invocation.rpartition('/i')[2]}" for r in await results_of(world.broker, world.catalogue)
    }
    assert under_way
    async with world.running() as second:
        found = first_results(await wait_for_results(world.broker, world.catalogue, 40))
        counts = second.status()[0].counts
    interrupted = {name for name, result in found.items() if result.cause == "interrupted"}
    assert under_way == {f"question {name.rpartition('/i')[2]}" for name in interrupted}
    assert {found[name].status for name in interrupted} == {"failed"}
    assert {result.status for name, result in found.items() if name not in interrupted} == {"ok"}
    assert set(endpoint.asked.values()) == {1}
    assert len(endpoint.asked) == 40
    assert (counts.interrupted, counts.sent_again) == (len(interrupted), 0)


@simulate
async def test_an_idempotent_pool_is_called_again_and_says_so():
    endpoint = Endpoint(takes_s=2.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", timeout_s=5))
    await create_topics(world.broker, world.catalogue)
    first = start(world)
    await publish(world.broker, world.catalogue, request_of(1))
    await wait_for_calls(endpoint, 1)
    first.kill()
    async with world.running() as second:
        (result,) = await wait_for_results(world.broker, world.catalogue, 1)
        counts = second.status()[0].counts
    assert (result.status, endpoint.asked.total()) == ("ok", 2)
    assert (counts.sent_again, counts.interrupted) == (1, 0)
    claims = await results_of(world.broker, world.catalogue, "llm-claims", ToolClaim)
    assert claims == []


@simulate
async def test_a_dispatcher_that_was_frozen_sends_nothing_that_its_successor_has_answered():
    endpoint = Endpoint(takes_s=1.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=4, effect="at-most-once"))
    await create_topics(world.broker, world.catalogue)
    zombie = start(world)
    await publish(world.broker, world.catalogue, *(request_of(n) for n in range(40)))
    await wait_for_calls(endpoint, 8)
    zombie.freeze()
    async with world.running():
        await wait_for_results(world.broker, world.catalogue, 40, timeout_s=120)
        zombie.thaw()
        await asyncio.sleep(60)
        found = first_results(await results_of(world.broker, world.catalogue))
    assert set(endpoint.asked.values()) == {1}
    assert Counter(result.cause or "ok" for result in found.values()) == {"ok": 36, "interrupted": 4}
    zombie.kill()


async def ask_with_a_spare_pool(endpoint: Endpoint) -> tuple[LlmResult, PoolCounts]:
    """Ask a pool that is at-most-once and has a fallback pool; return the result and the pool's counts."""
    world = Simulation(
        endpoint,
        fast=PoolSettings(model="m", effect="at-most-once", fallback_pools=("spare",)),
        spare=PoolSettings(model="s"),
    )
    await create_topics(world.broker, world.catalogue)
    async with world.running() as role:
        found = await world.ask(request_of(1))
        counts = role.status()[0].counts
    return found["dispute/c1/i1"], counts


@pytest.mark.parametrize(
    "error",
    [Unavailable("status", "503: overloaded"), Unavailable("timeout", "no answer"), Unavailable("connection", "reset")],
    ids=lambda error: error.kind,
)
def test_a_failure_that_proves_nothing_is_not_sent_again_to_any_pool(error: ProviderError):
    async def main() -> None:
        endpoint = Endpoint()
        endpoint.fails = lambda request: error if request.model == "m" else None
        result, counts = await ask_with_a_spare_pool(endpoint)
        assert (result.status, result.cause, result.attempts) == ("failed", "interrupted", 1)
        assert str(error) in result.error_message
        assert endpoint.models == {"m": 1}
        assert (counts.sent, counts.interrupted, counts.sent_again) == (1, 1, 0)

    virtual_time.run(main(), seed=3, max_time_s=10_000)


@pytest.mark.parametrize(
    "error", [Throttled("slow down", RateHeaders(retry_after_s=3.0)), Unauthorized("who are you?")]
)
def test_what_was_turned_away_for_its_key_is_sent_again(error: ProviderError):
    async def main() -> None:
        endpoint = Endpoint()
        endpoint.fails = lambda request: error if endpoint.asked.total() == 1 else None
        result, counts = await ask_with_a_spare_pool(endpoint)
        assert (result.status, result.attempts, endpoint.asked.total()) == ("ok", 2, 2)
        # The only key of the first pool is out after a 401: the pool is down, and nothing was done there.
        assert result.served_by == ("spare:s" if isinstance(error, Unauthorized) else "fast:m")
        assert (counts.interrupted, counts.sent_again) == (0, 0)

    virtual_time.run(main(), seed=3, max_time_s=10_000)


@simulate
async def test_a_request_that_waits_after_a_429_is_sent_by_the_successor():
    endpoint = Endpoint()
    endpoint.fails = lambda request: Throttled("x", RateHeaders(retry_after_s=30)) if len(endpoint.times) == 1 else None
    world = Simulation(endpoint, fast=PoolSettings(model="m", effect="at-most-once"))
    await create_topics(world.broker, world.catalogue)
    first = start(world)
    await publish(world.broker, world.catalogue, request_of(1))
    await wait_for_calls(endpoint, 1)
    await asyncio.sleep(1)
    first.kill()
    async with world.running():
        (result,) = await wait_for_results(world.broker, world.catalogue, 1)
    assert (result.status, endpoint.asked.total()) == ("ok", 2)


@simulate
async def test_a_fallback_pool_can_be_at_most_once_for_itself():
    endpoint = Endpoint()
    endpoint.fails = lambda request: Unavailable("status", "503")
    world = Simulation(
        endpoint,
        fast=PoolSettings(model="m", fallback_pools=("spare",)),
        spare=PoolSettings(model="s", effect="at-most-once"),
    )
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        found = await world.ask(request_of(1))
    assert found["dispute/c1/i1"].cause == "interrupted"
    assert endpoint.models == {"m": 2, "s": 1}


@simulate
async def test_a_record_that_comes_twice_while_it_is_answered_is_one_request():
    endpoint = Endpoint(takes_s=2.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", effect="at-most-once"))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        await asyncio.sleep(5)
        await publish(world.broker, world.catalogue, request_of(1), request_of(1), request_of(2))
        await wait_for_results(world.broker, world.catalogue, 2)
        await asyncio.sleep(5)
        found = await results_of(world.broker, world.catalogue)
    assert Counter(result.invocation for result in found) == {"dispute/c1/i1": 1, "dispute/c2/i2": 1}
    assert {result.status for result in found} == {"ok"}
    assert endpoint.asked.total() == 2


async def live(seed: int) -> None:
    """Kill and freeze two dispatchers in turn while requests come; nothing may be done twice, nothing be lost."""
    chance = Random(seed)
    done: Counter[str] = Counter()
    endpoint = Endpoint()

    def fails(request: ChatRequest) -> Exception | None:
        endpoint.takes_s = chance.uniform(0.05, 2.0)
        match chance.randrange(25):
            case 0:
                return Throttled("slow down")
            case 1:
                done[str(request.messages[0]["content"])] += 1
                return Unavailable("connection", "reset")
        done[str(request.messages[0]["content"])] += 1
        return None

    endpoint.fails = fails
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=8, effect="at-most-once"))
    await create_topics(world.broker, world.catalogue)
    processes = [start(world), start(world)]
    for round_ in range(5):
        await publish(
            world.broker, world.catalogue, *(request_of(n, wait_s=3_000) for n in range(20 * round_, 20 * round_ + 20))
        )
        await asyncio.sleep(chance.uniform(0.2, 6.0))
        index = chance.randrange(2)
        victim = processes[index]
        if chance.random() < 0.6:
            victim.kill_after(chance.randint(1, 300))
            await asyncio.sleep(chance.uniform(0, 3.0))
            victim.kill()
            processes[index] = start(world)
        else:
            victim.freeze()
            await asyncio.sleep(chance.uniform(0, 15.0))
            victim.thaw()
    async with asyncio.timeout(1_000):
        while len(found := first_results(await results_of(world.broker, world.catalogue))) < 100:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
    await asyncio.sleep(60)
    assert max(done.values()) == 1
    for number in range(100):
        result = found[f"dispute/c{number}/i{number}"]
        assert (result.status, result.cause) in {("ok", ""), ("failed", "interrupted")}
        assert result.status == "failed" or done[f"question {number}"] == 1
    assert any(result.status == "ok" for result in found.values())
    for process in processes:
        process.kill()


@pytest.mark.parametrize("seed", range(12))
def test_no_request_is_done_twice_whatever_dies(seed: int):
    virtual_time.run(live(seed), seed=seed, max_time_s=20_000)
