"""Metrics and probes of every role on a real Kafka that dies and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from streams import App, Client, Context, load_settings
from streams.broker.connect import open_broker
from streams.broker.embedded import EmbeddedKafka
from streams.broker.server_process import free_port
from streams.broker.topics import create_namespace
from streams.cli.roles import ROLES, Role, run_roles
from streams.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

app = App("probed")


@app.tool(timeout=5, effect="read", fallback="unknown")
async def look_up(key: str) -> str:
    return key


@app.agent(key=lambda key: key)
async def asker(ctx: Context[None], key: str) -> str:
    return await look_up(key)


@asynccontextmanager
async def process(settings: Settings, role: Role, port: int) -> AsyncIterator[None]:
    """One role as `streams run --role` has it, with probes of its own."""
    own = settings.model_copy(update={"observe": settings.observe.model_copy(update={"port": port})})
    task = asyncio.create_task(run_roles(app, own, [role]))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def answers(ports: dict[Role, int], path: str) -> dict[Role, str]:
    async with httpx2.AsyncClient(timeout=10) as http:

        async def one(port: int) -> str:
            try:
                answer = await http.get(f"http://127.0.0.1:{port}{path}")
            except httpx2.TransportError as error:
                return f"{type(error).__name__}"
            return f"{answer.status_code} {answer.text}"

        return dict(zip(ports, await asyncio.gather(*map(one, ports.values())), strict=True))


async def eventually(ask: Callable[[], Awaitable[dict[Role, str]]], wanted: str, within_s: float = 60.0) -> None:
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        found = await ask()
        if all(answer.startswith(wanted) for answer in found.values()):
            return
        assert asyncio.get_running_loop().time() < deadline, found
        await asyncio.sleep(0.3)


async def test_every_role_tells_whether_it_can_work(tmp_path: Path, postgres: str) -> None:
    kafka = EmbeddedKafka(tmp_path)
    await asyncio.to_thread(kafka.start)
    settings = load_settings(
        namespace="probed", partitions=1, kafka={"bootstrap_servers": kafka.bootstrap, "request_timeout_s": 3},
        memory={"dsn": postgres, "migrate_at_start": True}, gateway={"port": 0},
    )  # fmt: skip
    ports: dict[Role, int] = {role: free_port() for role in ROLES}
    try:
        broker = open_broker(settings.kafka)
        await create_namespace(broker.admin, settings.catalogue("probed", {}), 1)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(broker.close)
            for role, port in ports.items():
                await stack.enter_async_context(process(settings, role, port))
            await eventually(lambda: answers(ports, "/readyz"), "200 ")
            async with Client(app, settings=settings) as client:
                handle = await client.submit(asker, "c-1")
                assert (await handle.result(timeout=30)).value == "c-1"
            scraped = await answers(ports, "/metrics")
            assert 'streams_invocation_seconds_count{agent="asker",outcome="succeeded"} 1.0' in scraped["shards"]
            assert 'streams_tool_attempt_seconds_count{outcome="ok",tool="look_up"} 1.0' in scraped["tools"]
            for role, page in scraped.items():
                assert "streams_log_up 1.0" in page
                assert f'streams_role_ready{{role="{role}"}} 1.0' in page

            await asyncio.to_thread(kafka.stop, at_once=True)
            await eventually(lambda: answers(ports, "/readyz"), "503 log: ", within_s=20)
            assert {answer[:3] for answer in (await answers(ports, "/livez")).values()} == {"200"}
            assert all("streams_log_up 0.0" in page for page in (await answers(ports, "/metrics")).values())

            await asyncio.to_thread(kafka.start)
            await eventually(lambda: answers(ports, "/readyz"), "200 ")
    finally:
        await asyncio.to_thread(kafka.stop, at_once=True)
