"""The product with the shape of the floor, beside the floor: the same runs with engine, journal and dispatcher.

Shards are one process, tools and models a second one, the client is the third, as in the floor. Both are measured in
turn on the same broker, and only their ratio says anything: figures drift with the machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streams.broker.kafka.broker import KafkaBroker
from streams.broker.topics import create_namespace
from streams.client.client import Client
from tests.bench.broker import kafka
from tests.bench.floor import CASES, floor
from tests.bench.load import AGENTS, measure, processes
from tests.bench.pipeline_app import Work, app, settings, shards, three_steps, workers

COVERS = ("floor",)
"""Cases that need not be run beside this one."""

WARM_UP = (50, 500)


async def run() -> None:
    """Print a line of the floor and one of the product for each number of runs in flight."""
    with kafka() as bootstrap:
        await floor(bootstrap, *WARM_UP)
        for case in CASES:
            below = await floor(bootstrap, *case)
            print(json.dumps(below), flush=True)
            await asyncio.sleep(0.5)
            product = await pipeline(bootstrap, *case)
            product["of_floor_runs_per_s"] = round(product["runs_per_s"] / below["runs_per_s"], 3)
            product["of_floor_p50"] = round(product["p50_ms"] / below["p50_ms"], 3)
            print(json.dumps(product), flush=True)


async def pipeline(bootstrap: str, in_flight: int, runs: int) -> dict[str, Any]:
    """Return the figures of one case, on a namespace and processes of its own."""
    with quiet():
        return await _pipeline(bootstrap, in_flight, runs)


@contextmanager
def quiet() -> Iterator[None]:
    """Log errors only: there is no control plane here, so clients would warn of its missing signal."""
    logger = logging.getLogger("streams")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


async def _pipeline(bootstrap: str, in_flight: int, runs: int) -> dict[str, Any]:
    arguments = {"bootstrap": bootstrap, "namespace": f"bench-{uuid.uuid4().hex[:8]}"}
    chosen = settings(**arguments)
    broker = KafkaBroker(chosen.kafka_for_payloads())
    await create_namespace(broker.admin, chosen.catalogue(app.name, dict(app.lanes())), 1)
    with processes((shards, arguments), (workers, arguments)):
        async with Client(app, settings=chosen, broker=broker) as client:

            async def one(number: int) -> None:
                handle = await client.submit(three_steps, Work(customer=f"agent-{number % AGENTS}"))
                result = await handle.result(timeout=120)
                if not result.succeeded or result.degraded:
                    raise AssertionError(f"{result!r}: {result.error_message}")

            figures = await measure(one, in_flight, runs)
    await broker.close()
    return {"bench": "pipeline", **figures}
