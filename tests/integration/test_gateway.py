"""The gateway and the probes on a real Kafka, asked over real sockets."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from streams import App, Context
from streams.cli.roles import run_roles
from streams.errors import PrerequisiteMissing, SettingsError
from streams.gateway.role import GatewayRole
from tests.integration.running import Running, running, until

URL = "/v1/invocations"
SECRET = "token-of-acme-0123456789"


class Order(BaseModel):
    customer: str
    cents: int


def make_app() -> App:
    app = App("desk")

    @app.tool(timeout=2, effect="read", fallback="unknown")
    async def status(customer: str) -> str:
        return f"{customer} is active"

    @app.agent(key="customer")
    async def buy(ctx: Context[None], request: Order) -> dict[str, object]:
        return {"about": await status(request.customer), "cents": request.cents}

    @app.agent(key="customer")
    async def approve(ctx: Context[None], request: Order) -> bool:
        return await ctx.signal("approval", bool, timeout=60)

    return app


@asynccontextmanager
async def gateway(it: Running) -> AsyncIterator[GatewayRole]:
    role = GatewayRole(it.app, it.broker, it.catalogue, it.settings)
    task = asyncio.create_task(role.run())
    try:
        await until(lambda: bool(role.address) or task.done(), "the gateway listens")
        if task.done():
            task.result()
        yield role
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


@asynccontextmanager
async def http(address: str, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=30) as it:
        yield it


def order(customer: str = "c-1", agent: str = "buy", **rest: Any) -> dict[str, Any]:
    return {"agent": agent, "input": {"customer": customer, "cents": 5}, **rest}


async def test_submit_wait_signal_cancel_and_errors(kafka):
    async with running(make_app(), kafka, gateway={"port": 0}) as it, gateway(it) as role, http(role.address) as web:
        done = await web.post(URL, params={"wait": 20}, json=order())
        assert (done.status_code, done.json()["value"]) == (200, {"about": "c-1 is active", "cents": 5})

        accepted = await web.post(URL, json=order(idempotency_key="evt 1"))
        assert accepted.status_code == 202
        found = await web.get(accepted.headers["location"], params={"wait": 20})
        assert (found.json()["invocation"], found.json()["status"]) == ("buy/c-1/evt 1", "succeeded")
        # The same from the shard's memory, and for a client of the log.
        assert (await web.get(accepted.headers["location"])).json()["value"] == found.json()["value"]
        assert (await it.client.handle("buy/c-1/evt 1").result(20)).value == found.json()["value"]

        again = await web.post(URL, params={"wait": 20}, json=order(), headers={"Idempotency-Key": "evt 1"})
        assert (again.status_code, again.json()["repeated"]) == (200, True)
        changed = order(idempotency_key="evt 1") | {"input": {"customer": "c-1", "cents": 6}}
        assert (await web.post(URL, params={"wait": 20}, json=changed)).status_code == 409

        waiting = await web.post(URL, json=order(agent="approve", idempotency_key="a/1"))
        where = waiting.headers["location"]
        assert (await web.get(where)).json()["phase"] in ("accepted", "running")
        assert (await web.post(f"{where}/signals/approval", json=True)).status_code == 202
        assert (await web.get(where, params={"wait": 20})).json()["value"] is True

        doomed = (await web.post(URL, json=order(agent="approve"))).headers["location"]
        assert (await web.delete(doomed)).status_code == 202
        assert (await web.get(doomed, params={"wait": 20})).json()["status"] == "cancelled"

        assert (await web.get(f"{URL}/buy/c-1/never")).status_code == 404
        assert (await web.post(URL, json=order() | {"input": {"customer": "c-1"}})).json()["field"] == "input.cents"
        large = {"agent": "buy", "input": {"customer": "c" * 2_000_000, "cents": 1}}
        assert (await web.post(URL, json=large)).status_code == 413


async def test_a_token_is_the_tenant(kafka):
    tokens = [{"tenant": "acme", "token": SECRET}]
    async with (
        running(make_app(), kafka, gateway={"port": 0, "host": "0.0.0.0", "tokens": tokens}) as it,
        gateway(it) as role,
        http(f"127.0.0.1:{role.address.rpartition(':')[2]}") as web,
    ):
        assert (await web.post(URL, json=order())).status_code == 401
        auth = {"Authorization": f"Bearer {SECRET}"}
        done = await web.post(URL, params={"wait": 20}, json=order(), headers=auth)
        assert done.status_code == 200
        result = await it.client.handle(done.json()["invocation"]).result(20)
        assert result.record.tenant == "acme"


async def test_a_request_that_waits_does_not_hold_up_the_end(kafka):
    async with running(make_app(), kafka, gateway={"port": 0, "grace_s": 1}) as it:
        async with gateway(it) as role, http(role.address) as web:
            held = asyncio.create_task(web.post(URL, params={"wait": 30}, json=order(agent="approve")))
            await until(lambda: any(p.engine.open_count for p in it.shards.processors.values()), "it is under way")
            started = time.monotonic()
        assert time.monotonic() - started < 5
        await asyncio.wait((held,))


async def test_a_port_in_use_is_named(kafka):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(make_app(), kafka, roles=(), gateway={"port": port}) as it:
            with pytest.raises(SettingsError, match=rf"port {port} at 127.0.0.1 is in use.*STREAMS_GATEWAY__PORT"):
                await GatewayRole(it.app, it.broker, it.catalogue, it.settings).run()


async def test_without_its_libraries_the_extra_is_named(kafka, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "streams.gateway.server", raising=False)
    async with running(make_app(), kafka, roles=(), gateway={"port": 0}) as it:
        with pytest.raises(PrerequisiteMissing, match=r"install 'agent-streams\[gateway\]'"):
            await GatewayRole(it.app, it.broker, it.catalogue, it.settings).run()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])


async def test_a_process_with_roles_is_probed_scraped_and_ends_when_told(kafka):
    probes, door = free_port(), free_port()
    options: dict[str, Any] = {"observe": {"port": probes}, "gateway": {"port": door}}
    async with running(make_app(), kafka, roles=(), **options) as it:
        process = asyncio.create_task(run_roles(it.app, it.settings, ("shards", "tools", "gateway")))
        try:
            async with http(f"127.0.0.1:{probes}") as probe, http(f"127.0.0.1:{door}") as web:
                assert await status_of(probe, "/livez") == 200
                for _ in range(300):
                    if await status_of(probe, "/readyz") == 200:
                        break
                    await asyncio.sleep(0.05)
                ready = await probe.get("/readyz")
                assert (ready.status_code, ready.text) == (200, "ok\n")
                assert (await web.post(URL, params={"wait": 20}, json=order())).status_code == 200
                metrics = (await probe.get("/metrics")).text
        finally:
            started = time.monotonic()
            process.cancel()
            await asyncio.wait((process,))
        assert process.cancelled()
        assert time.monotonic() - started < 10
    assert 'streams_gateway_responses_total{route="submit",status="200"} 1.0' in metrics
    assert 'streams_role_ready{role="shards"} 1.0' in metrics
    assert 'dependency="tool:status",phase="closed",role="tools"} 1.0' in metrics
    finished = [line for line in metrics.splitlines() if line.startswith("streams_shard_finished_invocations_total")]
    assert sum(float(line.rpartition(" ")[2]) for line in finished) == 1


async def status_of(web: httpx2.AsyncClient, path: str) -> int:
    """Return the status, also of a server that is only about to listen."""
    for _ in range(200):
        try:
            return (await web.get(path)).status_code
        except httpx2.ConnectError:
            await asyncio.sleep(0.05)
    raise TimeoutError(path)
