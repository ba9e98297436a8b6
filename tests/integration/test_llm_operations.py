"""What operators see of the role `llm` and change while it works, on the simulated log in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from streams.broker.port import Message
from streams.llm.pool_reports import read_reports
from streams.llm.settings import PoolSettings
from streams.records import encode
from streams.records.control import Limit
from tests.integration.llm_requests import create_topics, publish, request_of, wait_for_results, wall
from tests.integration.test_llm_role import Endpoint, Simulation, simulate


async def change(world: Simulation, subject: str, limit: Limit | None) -> None:
    async with world.broker.producer() as producer:
        value = encode(limit) if limit else None
        await producer.send(Message(world.catalogue.name("limits"), subject.encode(), value, 0))


async def statuses(world: Simulation) -> list[dict[str, Any]]:
    return [orjson.loads(r.status) for r in await read_reports(world.broker, world.catalogue, int(wall() * 1000))]


@simulate
async def test_a_limit_is_changed_while_requests_wait_and_taken_back_again():
    endpoint = Endpoint(takes_s=0.1)
    world = Simulation(endpoint, fast=PoolSettings(model="m", requests_per_minute=60, concurrency=50))
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        await publish(world.broker, world.catalogue, *(request_of(n) for n in range(100)))
        await asyncio.sleep(10)
        slow = endpoint.asked.total()
        assert slow <= 12
        await change(world, "fast", Limit("fast", "ana", "more keys", 1, requests_per_minute=600.0))
        await asyncio.sleep(5)
        fast = endpoint.asked.total() - slow
        assert 40 <= fast <= 55
        await change(world, "fast", None)
        await asyncio.sleep(5)
        assert endpoint.asked.total() - slow - fast <= 7


@simulate
async def test_a_change_holds_after_a_restart_from_the_first_call_on():
    endpoint = Endpoint(takes_s=1.0)
    world = Simulation(endpoint, fast=PoolSettings(model="m", concurrency=50))
    await create_topics(world.broker, world.catalogue)
    await change(world, "fast", Limit("fast", "ana", "incident", 1, concurrency=3))
    await publish(world.broker, world.catalogue, *(request_of(n) for n in range(20)))
    async with world.running() as role:
        await wait_for_results(world.broker, world.catalogue, 20)
        assert endpoint.most == 3
        assert role.status()[0].keys[0].concurrency == 3


@simulate
async def test_a_record_that_is_no_limit_is_passed_over():
    endpoint = Endpoint(takes_s=0.1)
    world = Simulation(endpoint)
    await create_topics(world.broker, world.catalogue)
    async with world.broker.producer() as producer:
        await producer.send(Message(world.catalogue.name("limits"), b"fast", b"garbage", 0))
    async with world.running():
        assert (await world.ask(request_of(1)))["dispute/c1/i1"].status == "ok"


@simulate
async def test_reports_tell_what_is_held_what_is_left_and_who_changed_the_limits():
    endpoint = Endpoint(takes_s=4.0)
    world = Simulation(
        endpoint, fast=PoolSettings(model="m", concurrency=2, requests_per_minute=600), idle=PoolSettings(model="i")
    )
    await create_topics(world.broker, world.catalogue)
    async with world.running(instance_id="one"):
        await change(world, "fast", Limit("fast", "ana", "incident 7", 5, concurrency=4))
        await asyncio.sleep(1)
        await publish(world.broker, world.catalogue, *(request_of(n) for n in range(30)))
        await asyncio.sleep(7)
        reports = await read_reports(world.broker, world.catalogue, int(wall() * 1000))
        assert [(report.pool, report.reporter) for report in reports] == [("fast", "llm-one"), ("idle", "llm-one")]
        fast, idle = (orjson.loads(report.status) for report in reports)
    assert (fast["held"] + fast["running"], fast["running"]) == (26, 4)
    assert 5 < fast["oldest_s"] < 8
    assert 20 < fast["expected_wait_s"] < 26  # 23 at four at once, four seconds each
    assert fast["changed"] == [{"subject": "fast", "by": "ana", "reason": "incident 7", "at_ms": 5}]
    (key,) = fast["keys"]
    (bucket,) = key["buckets"]
    assert (key["key_name"], key["concurrency"], bucket["quantity"]) == ("fast/1", 4, "requests")
    assert (idle["held"], idle["expected_wait_s"], idle["changed"]) == (0, 0.0, [])


@simulate
async def test_a_dispatcher_that_is_gone_is_not_shown_for_long():
    world = Simulation(Endpoint())
    await create_topics(world.broker, world.catalogue)
    async with world.running():
        await asyncio.sleep(2)
        assert len(await statuses(world)) == 1
    await asyncio.sleep(6)
    assert await statuses(world) == []
