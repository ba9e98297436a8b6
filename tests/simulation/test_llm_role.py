"""The role `llm` under crashes, zombies and rebalances: every request is answered, and the limit holds."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from streams.app import App
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.simulated.process import Process
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.function import FunctionProvider
from streams.llm.provider_errors import Throttled, Unauthorized, Unavailable
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.llm.usage import Usage
from streams.records.topics import Catalogue
from streams.testing import virtual_time
from tests.integration.llm_requests import create_topics, publish, request_of, results_of, wait_for_results, wall

REQUESTS = 150


async def live(seed: int) -> None:
    chance, loop = Random(seed), asyncio.get_running_loop()
    log = SimulatedLog(Random(seed))
    catalogue = Catalogue("app", partitions=4)
    outside = SimulatedBroker(log, "test")
    await create_topics(outside, catalogue)

    async def endpoint(request: ChatRequest) -> ChatResponse:
        await asyncio.sleep(chance.uniform(0.05, 1.0))
        match chance.randrange(40):
            case 0:
                raise Unavailable("status", "500: error")
            case 1:
                raise Throttled("slow down")
            case 2 if request.model == "m":
                raise Unauthorized("who are you?")
        return ChatResponse("yes", usage=Usage(20, chance.randrange(100)))

    settings = LlmSettings(
        pools={
            "fast": PoolSettings(model="m", concurrency=8, tokens_per_minute=200_000, fallback_pools=("spare",)),
            "spare": PoolSettings(model="s", concurrency=8),
        },
        max_held=40,
        drain_s=1.0,
    )

    def start(number: int, seat: str | None) -> Process:
        broker = SimulatedBroker(log, f"llm-{number}")
        role = LlmRole(
            App("app"), broker, catalogue, settings, now=wall, clock=loop.time, rng=Random(number),
            providers={name: FunctionProvider(endpoint) for name in settings.pools},
            instance_id=seat,
        )  # fmt: skip
        broker.process.spawn(role.run())
        return broker.process

    seats = ["i0", "i1"] if seed % 2 else [None, None]
    processes = [start(number, seat) for number, seat in enumerate(seats)]
    requests = [request_of(n, wait_s=3_000) for n in range(REQUESTS)]
    for number in range(2, 8):
        await publish(outside, catalogue, *requests[(number - 2) * 25 : (number - 1) * 25])
        await asyncio.sleep(chance.uniform(0.2, 6.0))
        index = chance.randrange(2)
        victim = processes[index]
        if chance.random() < 0.6:
            victim.kill_after(chance.randint(1, 300))
            await asyncio.sleep(chance.uniform(0, 3.0))
            victim.kill()  # a seat has one member at a time
            processes[index] = start(number, seats[index])
        else:
            victim.freeze()
            await asyncio.sleep(chance.uniform(0, 15.0))
            victim.thaw()
    wanted = {request.invocation for request in requests}
    async with asyncio.timeout(1_000):
        while {result.invocation for result in await results_of(outside, catalogue)} != wanted:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
    found = await wait_for_results(outside, catalogue, REQUESTS)
    assert {result.status for result in found} == {"ok"}
    for process in processes:
        process.kill()


@pytest.mark.parametrize("seed", range(16))
def test_every_request_is_answered_whatever_dies(seed: int):
    virtual_time.run(live(seed), seed=seed, max_time_s=20_000)
