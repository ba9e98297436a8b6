"""Usage and tenants' budgets of the role `llm`, on the simulated log in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

from streams.broker.port import Message
from streams.llm.settings import PoolSettings, TenantBudget
from streams.llm.usage_report import read_usage
from streams.llm.usage_sums import window_start_ms
from streams.records import encode
from streams.records.control import Limit, Usage
from streams.records.steps import LlmResult
from tests.integration.llm_requests import create_topics, publish, request_of, results_of, wait_for_results, wall
from tests.integration.test_llm_role import Endpoint, Simulation, simulate

PRICED = PoolSettings(model="m", input_price=1e6, output_price=2e6)
"""A token that goes in costs 1, one that comes out 2; the endpoint uses 20 and 10."""


async def usage_of(world: Simulation) -> dict[tuple[str, str], Usage]:
    return {(row.tenant, row.model): row for row in await read_usage(world.broker, world.catalogue)}


def of(tenant: str, count: int, first: int = 0):
    return [request_of(number, tenant=tenant) for number in range(first, first + count)]


def told(results: list[LlmResult]) -> Counter[str]:
    return Counter(result.error_type or result.status for result in results)


@simulate
async def test_usage_is_summed_by_tenant_and_model_and_counted_in_metrics():
    world = Simulation(Endpoint(takes_s=0.1), fast=PRICED)
    await create_topics(world.broker, world.catalogue)
    async with world.running() as role:
        await world.ask(*of("acme", 30), *of("other", 10, 30))
        await asyncio.sleep(3)
        sums = await usage_of(world)
        metrics = {labels: (used.requests, used.cost) for labels, used in role.usage.used.items()}
    start = window_start_ms(int(wall() * 1000), "day")
    assert sums == {
        ("acme", "m"): Usage("acme", "m", start, 30, 600, 300, 1200.0),
        ("other", "m"): Usage("other", "m", start, 10, 200, 100, 400.0),
    }
    assert metrics == {("acme", "m"): (30, 1200.0), ("other", "m"): (10, 400.0)}


@simulate
async def test_usage_is_exact_after_any_number_of_kills():
    endpoint = Endpoint(takes_s=1.0)
    world = Simulation(endpoint, fast=PRICED.model_copy(update={"concurrency": 20}))
    await create_topics(world.broker, world.catalogue)
    await publish(world.broker, world.catalogue, *of("acme", 400))
    for life_s in (7.3, 12.6, 9.8):
        role = world.role()
        process = role._broker.process  # type: ignore[attr-defined]
        process.spawn(role.run())
        await asyncio.sleep(life_s)
        process.kill()
    async with world.running():
        found = await wait_for_results(world.broker, world.catalogue, 400, 200)
        await asyncio.sleep(3)
        sums = await usage_of(world)
    assert endpoint.asked.total() > 400  # some were under way when their process was killed
    answered = sum(result.input_tokens for result in found)
    assert (sums["acme", "m"].requests, sums["acme", "m"].input_tokens) == (len(found), answered)


@simulate
async def test_two_processes_count_each_result_once_whoever_owns_it():
    world = Simulation(Endpoint(takes_s=0.1), fast=PRICED)
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        await world.ask(*of("acme", 40))
        async with world.running():
            await asyncio.sleep(5)
            await world.ask(*of("acme", 40, 100))
        await world.ask(*of("acme", 40, 200))
        await asyncio.sleep(3)
        sums = await usage_of(world)
    assert (sums["acme", "m"].requests, sums["acme", "m"].output_tokens) == (120, 1200)


@simulate
async def test_a_tenant_is_stopped_before_the_call_that_could_pass_its_budget_and_others_go_on():
    endpoint = Endpoint(takes_s=0.2)
    world = Simulation(endpoint, fast=PRICED.model_copy(update={"concurrency": 4}))
    # A call reserves 20 + 100 tokens and uses 30.
    world.settings = world.settings.model_copy(update={"tenant_budgets": {"acme": TenantBudget(tokens=1_000)}})
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        for number in range(50):
            await world.ask(request_of(number, tenant="acme"))
        await world.ask(*of("other", 50, 100))
    found = await results_of(world.broker, world.catalogue)
    acme = [result for result in found if result.tenant == "acme"]
    # 30 are used after each, and 120 must fit: the 30th call might take it to 990.
    assert told(acme) == {"ok": 30, "BudgetExceeded": 20}
    assert sum(result.input_tokens + result.output_tokens for result in acme) == 900
    refused = next(result for result in acme if result.status != "ok")
    assert (refused.status, refused.attempts) == ("raised", 0)
    assert "tenant 'acme' has used 900 and reserved 0 of its budget of 1,000 tokens a day" in refused.error_message
    assert told([result for result in found if result.tenant == "other"]) == {"ok": 50}


@simulate
async def test_calls_at_once_cannot_pass_a_budget_of_money_together():
    endpoint = Endpoint(takes_s=2.0)
    world = Simulation(endpoint, fast=PRICED)
    # A call may cost 220 and costs 40.
    world.settings = world.settings.model_copy(update={"tenant_budgets": {"*": TenantBudget(cost=1_000.0)}})
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        found = await world.ask(*of("acme", 30))
        assert told(list(found.values())) == {"ok": 4, "BudgetExceeded": 26}
        await asyncio.sleep(2)
        again = await world.ask(*of("acme", 30, 100))
    assert told(list(again.values()))["ok"] == 4 + 3  # 160 are used, and three more may cost 660


@simulate
async def test_a_budget_holds_after_a_kill_and_can_be_raised_live_and_ends_with_its_window():
    endpoint = Endpoint(takes_s=0.1)
    world = Simulation(endpoint, fast=PRICED)
    world.settings = world.settings.model_copy(
        update={"tenant_budgets": {"acme": TenantBudget(tokens=300)}, "usage_window": "hour"}
    )
    await create_topics(world.broker, world.catalogue)
    role = world.role()
    process = role._broker.process  # type: ignore[attr-defined]
    process.spawn(role.run())
    for number in range(7):
        await world.ask(request_of(number, tenant="acme"))
    await asyncio.sleep(2)
    process.kill()
    async with world.running():
        refused = (await world.ask(request_of(10, tenant="acme")))["dispute/c10/i10"]
        assert refused.error_type == "BudgetExceeded"
        more = Limit("tenant:acme", "ana", "a good customer", 1, budget_tokens=1_000)
        async with world.broker.producer() as producer:
            await producer.send(Message(world.catalogue.name("limits"), b"tenant:acme", encode(more), 0))
        await asyncio.sleep(1)
        assert (await world.ask(request_of(11, tenant="acme")))["dispute/c11/i11"].status == "ok"
        async with world.broker.producer() as producer:
            await producer.send(Message(world.catalogue.name("limits"), b"tenant:acme", None, 0))
        await asyncio.sleep(1)
        assert (await world.ask(request_of(12, tenant="acme")))["dispute/c12/i12"].error_type == "BudgetExceeded"
        await asyncio.sleep(2_820)  # the world begins at 13 minutes past the hour
        assert (await world.ask(request_of(13, tenant="acme")))["dispute/c13/i13"].status == "ok"


@simulate
async def test_without_results_for_days_the_rest_is_counted_on_top_of_what_was_written():
    endpoint = Endpoint(takes_s=0.1)
    world = Simulation(endpoint, fast=PRICED)
    world.settings = world.settings.model_copy(update={"usage_window": "hour", "usage_flush_s": 5.0})
    await create_topics(world.broker, world.catalogue)
    role = world.role()
    process = role._broker.process  # type: ignore[attr-defined]
    process.spawn(role.run())
    await world.ask(*of("acme", 20))
    await asyncio.sleep(6)
    await world.ask(*of("acme", 20, 100))
    process.kill()  # before these were written
    await asyncio.sleep(3 * 3600)
    async with world.running():
        await asyncio.sleep(10)
        sums = await usage_of(world)
    assert sums["acme", "m"].requests == 40
