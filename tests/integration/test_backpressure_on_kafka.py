"""Telling and obeying on a real Kafka: signals that plain clients follow, and what kafka-consumer-groups would see."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from pydantic import BaseModel

from streams import App, Backpressure, Context, Handle
from streams.backpressure import BackpressurePolicy, LagMonitor
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.records.load import read_note
from tests.integration.running import Running, running, until

README = Path(__file__).parents[2] / "README.md"
SETTINGS = ControlSettings(
    backpressure=BackpressurePolicy(
        target_records=4,
        slow_records=8,
        close_records=16,
        least_records=4,
        target_s=1,
        slow_s=2,
        close_s=4,
        dwell_s=0.2,
    )
)


class Ask(BaseModel):
    who: str


def application() -> tuple[App, asyncio.Event]:
    app, go = App("pressed"), asyncio.Event()

    @app.tool(timeout=60, effect="read", fallback="none", concurrency=50)
    async def slow(who: str) -> str:
        await go.wait()
        return who

    @app.agent(key="who", version="1")
    async def asker(ctx: Context[None], request: Ask) -> str:
        return await slow(request.who)

    return app, go


@asynccontextmanager
async def controlled(it: Running) -> AsyncIterator[ControlPlane]:
    """A control plane that samples; without Faust, which is tested elsewhere."""
    plane = ControlPlane(it.broker, it.catalogue, SETTINGS)
    await plane.assign(frozenset({0}))

    async def sample() -> None:
        while True:
            await plane.sample()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(sample())
    try:
        yield plane
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await plane.close()


def readme_example() -> dict[str, Any]:
    """Return the names that the README's example for plain Kafka clients defines."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "def wait_s" in block]
    names: dict[str, Any] = {}
    exec(example, names)
    return names


async def test_open_work_closes_the_lane_for_the_client_and_for_who_only_has_a_kafka_client(kafka):
    app, go = application()
    example = readme_example()
    async with running(app, kafka) as it, controlled(it) as plane:
        topic = it.topic("backpressure")
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=kafka, auto_offset_reset="earliest", isolation_level="read_committed"
        )
        await consumer.start()
        follower = asyncio.create_task(example["follow"](consumer))
        try:
            await until(lambda: it.client.backpressure is not None, "there is a signal")
            assert example["wait_s"]() == 0
            # Everything is read at once; what closes the lane is open in the shards.
            handles: list[Handle[str]] = []

            async def submit_for_ever() -> None:
                while True:
                    handles.append(await it.client.submit("asker", Ask(who=f"c-{len(handles)}")))

            with pytest.raises(Backpressure) as refused:
                await asyncio.wait_for(submit_for_ever(), 30)
            await until(lambda: example["wait_s"]() > 0, "the plain client knows it")
            assert 0 < refused.value.retry_after_s <= SETTINGS.backpressure.ceiling_s * 1.2
            waiting = asyncio.create_task(it.client.submit("asker", Ask(who="patient"), wait=True))
            await until(
                lambda: plane.report is not None and plane.report.stages[0].backlog == len(handles), "all are open"
            )
            assert len(handles) >= 16
            assert it.client.waiting == 1
            go.set()
            handle = await asyncio.wait_for(waiting, 30)
            results = [await each.result(timeout=30) for each in (*handles, handle)]
            assert [result.value for result in results] == [*(f"c-{n}" for n in range(len(handles))), "patient"]
            assert it.client.admissions.admitted == len(results)
            await until(lambda: example["wait_s"]() == 0, "the plain client may send again")
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await consumer.stop()


async def test_the_group_offsets_have_the_lag_that_is_measured(kafka):
    app, _ = application()
    async with running(app, kafka, roles=("shards",)) as it:
        monitor = LagMonitor(it.broker, it.catalogue)
        for n in range(20):
            await it.client.submit("asker", Ask(who=f"c-{n}"))

        async def measured() -> tuple[int, int, bool]:
            stages = {stage.name: stage for stage in (await monitor.sample()).stages}
            calls = stages["tool-calls"]
            return (
                sum(lag.unread for lag in stages["invocations"].partitions),
                sum(lag.load.working for lag in stages["invocations"].partitions),
                sum(lag.unread for lag in calls.partitions) >= 20,  # and the markers of their transactions
            )

        deadline = time.monotonic() + 20
        while await measured() != (0, 20, True):
            assert time.monotonic() < deadline, await measured()
            await asyncio.sleep(0.1)
        # No tool worker was ever here, and yet the calls that wait for it have an age.
        await asyncio.sleep(0.2)
        report = await monitor.sample()
        assert next(stage.lag_s for stage in report.stages if stage.name == "tool-calls") >= 0.2
        assert {stage.name: stage.consumed for stage in report.stages[:2]} == {"invocations": True, "tool-calls": False}
        invocations = report.stages[0]
        group = f"{it.catalogue.namespace}-shards"
        places = monitor.stages[0].partitions
        committed = await it.broker.admin.committed(group, places)
        ends = await it.broker.admin.end_offsets(places)
        assert {p.number: ends[p] - at.offset for p, at in committed.items()} == {
            lag.number: lag.unread for lag in invocations.partitions
        }
        loads = [read_note(at.note) for at in committed.values()]
        assert sum(load.working for load in loads if load is not None) == 20
