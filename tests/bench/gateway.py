"""The gateway alone: submissions accepted a second, and their latency at half of what is asked for, over real sockets.

The gateway is one process and the callers another, each connection one request at a time, as a fleet of services makes
them. Nobody works the invocations: they stay on their topic. The floor is the same server with the same number of
connections that answers at once, so that the ratio tells what submitting costs beside HTTP.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streams.broker.kafka.broker import KafkaBroker
from streams.broker.topics import create_namespace
from streams.cli.roles import run_roles
from streams.gateway.door import Door
from streams.gateway.server import serve
from streams.gateway.settings import GatewaySettings
from tests.bench.broker import kafka
from tests.bench.load import PAYLOAD, processes
from tests.bench.pipeline import quiet
from tests.bench.pipeline_app import app, settings

CONNECTIONS = 64
ASKED_PER_S = 1_500
"""What one gateway is to take; half of it is the load of the second measurement."""
SECONDS = 5.0
WARM_UP_S = 2.0


async def run() -> None:
    """Print the line."""
    with kafka() as bootstrap, quiet():
        print(json.dumps(await gateway(bootstrap)), flush=True)


async def gateway(bootstrap: str, seconds: float = SECONDS, warm_up_s: float = WARM_UP_S) -> dict[str, Any]:
    """Return the figures of one gateway."""
    namespace = f"gateway-{uuid.uuid4().hex[:8]}"
    chosen = settings(bootstrap, namespace)
    broker = KafkaBroker(chosen.kafka_for_payloads())
    await create_namespace(broker.admin, chosen.catalogue(app.name, dict(app.lanes())), 1)
    ports = [_free_port(), _free_port()]
    with processes(
        (door, {"bootstrap": bootstrap, "namespace": namespace, "port": ports[0]}), (floor, {"port": ports[1]})
    ):
        for port in ports:
            await _listening(port)
        await _load(ports[0], warm_up_s)
        below = await _load(ports[1], seconds)
        flat_out = await _load(ports[0], seconds)
        half = await _load(ports[0], seconds, rate=ASKED_PER_S / 2)
    await broker.close()
    return {
        "bench": "gateway",
        "connections": CONNECTIONS,
        "accepted_per_s": flat_out["per_s"],
        "p99_ms": flat_out["p99_ms"],
        "half_load_per_s": half["per_s"],
        "half_load_p50_ms": half["p50_ms"],
        "half_load_p99_ms": half["p99_ms"],
        "of_floor": round(flat_out["per_s"] / below["per_s"], 3),
        "refused": flat_out["refused"] + half["refused"],
    }


async def door(bootstrap: str, namespace: str, port: int) -> None:
    """Be the gateway."""
    chosen = settings(bootstrap, namespace).model_copy(update={"gateway": GatewaySettings(port=port)})
    await run_roles(app, chosen, ["gateway"])


async def floor(port: int) -> None:
    """Be a server that reads a body and answers at once."""

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(b"{}", 202)

    with socket.create_server(("127.0.0.1", port)) as listener:
        asgi = Starlette(routes=[Route("/v1/invocations", answer, methods=["POST"])])
        await serve(asgi, listener, GatewaySettings(), Door(1_000, 60.0))


async def _load(port: int, seconds: float, rate: float | None = None) -> dict[str, float]:
    """Submit for so long: flat out, or *rate* a second; a request that falls due late counts from when it was due."""
    latencies: list[float] = []
    refused = 0
    started = time.perf_counter()

    async def one(number: int) -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = 0
        while (now := time.perf_counter()) - started < seconds:
            due = now if rate is None else started + (sent * CONNECTIONS + number) / rate
            if due > now:
                await asyncio.sleep(due - now)
            writer.write(_request(number * 1_000_000 + sent))
            sent += 1
            refused += await _status(reader) != 202
            latencies.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    elapsed_s = time.perf_counter() - started
    latencies.sort()
    return {
        "per_s": round(len(latencies) / elapsed_s, 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
        "refused": refused,
    }


def _request(number: int) -> bytes:
    body = orjson.dumps({"agent": "three_steps", "input": {"customer": f"agent-{number % 997}", "text": PAYLOAD}})
    head = (
        f"POST /v1/invocations HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    )
    return f"{head}\r\n\r\n".encode() + body


async def _status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return int(head[9:12])


async def _listening(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as it:
        return int(it.getsockname()[1])
