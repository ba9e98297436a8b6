"""Several processes with the role `llm` share one pool: the provider's own count never exceeds the limit."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from streams.app import App
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.simulated.process import Process
from streams.demo.provider.config import Limits
from streams.llm.function import FunctionProvider
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.records.topics import Catalogue
from streams.testing import virtual_time
from tests.bench.dispatch_fleet import measure
from tests.integration.llm_requests import create_topics, publish, request_of, results_of, wall
from tests.simulation.strict_endpoint import StrictEndpoint

LIMITS = (
    {"requests_per_minute": 600},
    {"output_tokens_per_minute": 30_000},
    {"tokens_per_minute": 40_000, "concurrency": 12},
    {"concurrency": 5},
    {"concurrency": 1},
    {"requests_per_minute": 120, "concurrency": 20},
)


class Fleet:
    """Processes that come and go, on one log and before one provider."""

    def __init__(self, seed: int, limits: dict[str, int], *, machine: str = "here", burst_s: float = 5.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.log = SimulatedLog(Random(seed))
        self.catalogue = Catalogue("app", partitions=4)
        self.outside = SimulatedBroker(self.log, "test")
        self.machine = machine
        self.endpoint = StrictEndpoint(Limits(**limits, burst_s=burst_s), Random(seed))
        pool = PoolSettings(model="m", burst_s=burst_s, timeout_s=5.0, **limits)
        self.settings = LlmSettings(pools={"fast": pool}, drain_s=1.0)
        self.roles: dict[Process, LlmRole] = {}
        self.started = 0

    async def start(self, instance_id: str | None = None) -> Process:
        if not self.started:
            await create_topics(self.outside, self.catalogue)
        self.started += 1
        broker = SimulatedBroker(self.log, f"llm-{self.started}")
        role = LlmRole(
            App("app"), broker, self.catalogue, self.settings, now=wall, clock=self.loop.time,
            rng=Random(self.started), providers={"fast": FunctionProvider(self.endpoint)}, instance_id=instance_id,
            machine=self.machine,
        )  # fmt: skip
        broker.process.spawn(role.run())
        self.roles[broker.process] = role
        return broker.process

    async def ask(self, numbers: range, **fields) -> None:
        await publish(self.outside, self.catalogue, *(request_of(n, wait_s=5_000, **fields) for n in numbers))

    async def answered(self, count: int, within_s: float = 2_000) -> list[str]:
        async with asyncio.timeout(within_s):
            while True:
                found = await results_of(self.outside, self.catalogue)
                if len({result.invocation for result in found}) >= count:
                    return [result.status for result in found]
                await asyncio.sleep(10.0)

    def end(self) -> None:
        for process in self.roles:
            process.kill()


async def chaos(seed: int) -> None:
    chance = Random(seed)
    fleet = Fleet(seed, LIMITS[seed % len(LIMITS)], machine=chance.choice(["", "here"]))
    seats = [f"i{n}" if seed % 2 else None for n in range(3)]
    processes = [await fleet.start(seat) for seat in seats]
    asked = 0
    for _ in range(5):
        await fleet.ask(range(asked, asked := asked + 40))
        await asyncio.sleep(chance.uniform(0.2, 8.0))
        victim = chance.randrange(3)
        if chance.random() < 0.6:
            processes[victim].kill_after(chance.randint(1, 300))
            await asyncio.sleep(chance.uniform(0, 12.0))
            processes[victim].kill()
            processes[victim] = await fleet.start(seats[victim])
        else:
            processes[victim].freeze()
            await asyncio.sleep(chance.uniform(0, 20.0))
            processes[victim].thaw()
    statuses = await fleet.answered(asked)
    assert fleet.endpoint.refused == Counter()
    assert set(statuses) == {"ok"}
    fleet.end()


@pytest.mark.parametrize("seed", range(16))
def test_the_provider_never_counts_more_than_the_limit_whatever_dies_or_stands_still(seed: int):
    virtual_time.run(chaos(seed), seed=seed, max_time_s=20_000)


async def saturated(limits: dict[str, int], processes: int) -> Fleet:
    fleet = Fleet(1, limits)
    for _ in range(processes):
        await fleet.start()
    await asyncio.sleep(10)
    await fleet.ask(range(1_200))
    await asyncio.sleep(20)
    return fleet


@pytest.mark.parametrize("limits", LIMITS[:3])
def test_three_processes_together_use_what_one_would(limits: dict[str, int]):
    async def main() -> tuple[float, Counter[str]]:
        fleet = await saturated(limits, 3)
        start, since = fleet.loop.time(), len(fleet.endpoint.granted)
        await asyncio.sleep(40)
        granted = [used for _, used in fleet.endpoint.granted[since:]]
        amounts = {
            "requests_per_minute": len(granted),
            "output_tokens_per_minute": sum(used.output_tokens for used in granted),
            "tokens_per_minute": sum(used.total_tokens for used in granted),
        }
        name, limit = next(iter(limits.items()))
        share = amounts[name] / (limit * (fleet.loop.time() - start) / 60)
        fleet.end()
        return share, fleet.endpoint.refused

    share, refused = virtual_time.run(main(), seed=5, max_time_s=1_000)
    assert share > 0.97
    assert not refused


def test_a_process_that_ends_in_good_order_leaves_its_part_to_the_others_at_once():
    async def main() -> tuple[int, Counter[str]]:
        fleet = Fleet(2, {"concurrency": 10})
        settings = fleet.settings.pools["fast"].model_copy(update={"timeout_s": 600.0})
        fleet.settings = fleet.settings.model_copy(update={"pools": {"fast": settings}})
        role = LlmRole(
            App("app"), SimulatedBroker(fleet.log, "first"), fleet.catalogue, fleet.settings, now=wall,
            clock=fleet.loop.time, rng=Random(9), providers={"fast": FunctionProvider(fleet.endpoint)}, machine="",
        )  # fmt: skip
        await fleet.start()
        task = asyncio.create_task(role.run())
        await asyncio.sleep(10)
        await fleet.ask(range(60))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        await fleet.ask(range(60, 400))
        await asyncio.sleep(5)
        fleet.endpoint.most_open = 0
        await asyncio.sleep(5)
        most = fleet.endpoint.most_open
        fleet.end()
        return most, fleet.endpoint.refused

    most, refused = virtual_time.run(main(), seed=5, max_time_s=1_000)
    assert (most, refused) == (10, Counter())


def test_tenants_are_served_alike_over_three_processes_although_one_sends_ten_times_as_much():
    tenants = {"t0": 3_000} | {f"t{number}": 300 for number in range(1, 10)}
    found = measure("requests", dispatchers=3, keys=1, tenants=tenants)
    served = [found["served"][tenant] for tenant in tenants]
    assert sum(served) ** 2 / (len(served) * sum(amount**2 for amount in served)) > 0.99
    assert found["rejected_429"] == 0
    assert found["of_limit"] > 0.98
