"""How long shards are silent after `kill -9` under full load: taken over by another process, and restarted.

Two processes own the shards, a thousand runs are always in flight, and the load lasts as long as is asked for, because
what is not compacted yet has to be read: ten minutes with `python -m tests.bench.resume --load-s 600`, else half a
minute. The time is that of the slowest shard, from the signal until a result that was written after it has arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
import uuid
from multiprocessing.process import BaseProcess
from typing import Any

import uvloop

from streams.broker.kafka.broker import KafkaBroker
from streams.broker.port import Partition
from streams.broker.topics import create_namespace
from streams.client.client import Client
from streams.records.topics import Catalogue
from streams.settings import Settings
from tests.bench.broker import kafka
from tests.bench.load import AGENTS, process, processes
from tests.bench.pipeline import quiet
from tests.bench.pipeline_app import Work, app, settings, shards, three_steps, workers
from tests.chaos.watch import Watch

IN_FLIGHT = 1_000
SHORT_S = 30.0
BETWEEN_S = 10.0
LONGEST_S = 60.0


async def run(load_s: float = SHORT_S) -> None:
    """Print the line."""
    with kafka() as bootstrap, quiet():
        print(json.dumps(await resume(bootstrap, load_s)), flush=True)


async def resume(
    bootstrap: str, load_s: float, in_flight: int = IN_FLIGHT, between_s: float = BETWEEN_S
) -> dict[str, Any]:
    """Return the figures of one namespace."""
    arguments = {"bootstrap": bootstrap, "namespace": f"resume-{uuid.uuid4().hex[:8]}"}
    chosen = settings(**arguments)
    catalogue = chosen.catalogue(app.name, dict(app.lanes()))
    broker = KafkaBroker(chosen.kafka_for_payloads())
    await create_namespace(broker.admin, catalogue, 1)
    first, second = (process(shards, {**arguments, "instance_id": name}) for name in ("first", "second"))
    restarted: BaseProcess | None = None
    watch = Watch(broker, catalogue)
    try:
        with processes((workers, arguments)):
            first.start()
            second.start()
            async with asyncio.TaskGroup() as group:
                following = group.create_task(watch.follow())
                loading = group.create_task(_load(chosen, broker, in_flight))
                await _resumed(watch, time.time())
                await asyncio.sleep(load_s)
                at_work, journal = len(watch.answered), await _journal_records(broker, catalogue)
                taken_over_s = await _killed(first, watch)
                await asyncio.sleep(between_s)
                killed_at = time.time()
                second.kill()
                second.join()
                restarted = process(shards, {**arguments, "instance_id": "second"})
                restarted.start()
                restarted_s = await _resumed(watch, killed_at)
                following.cancel()
                loading.cancel()
    finally:
        for child in (first, second, restarted):
            if child is not None and child.pid is not None:
                child.kill()
                child.join()
        await broker.close()
    return {
        "bench": "resume",
        "in_flight": in_flight,
        "load_s": load_s,
        "results": at_work,
        "journal_records": journal,
        "taken_over_s": round(taken_over_s, 2),
        "restarted_s": round(restarted_s, 2),
    }


async def _killed(child: BaseProcess, watch: Watch) -> float:
    killed_at = time.time()
    child.kill()
    child.join()
    return await _resumed(watch, killed_at)


async def _resumed(watch: Watch, since: float) -> float:
    silent = await watch.resumed(since, within_s=LONGEST_S)
    if silent is None:
        raise AssertionError(f"a shard had no result within {LONGEST_S:.0f} s")
    return silent


async def _load(chosen: Settings, broker: KafkaBroker, in_flight: int) -> None:
    """Keep so many runs in flight, until cancelled."""
    numbers = itertools.count()

    async def one_after_the_other(client: Client) -> None:
        while True:
            handle = await client.submit(three_steps, Work(customer=f"agent-{next(numbers) % AGENTS}"))
            await handle.result(timeout=120)

    async with Client(app, settings=chosen, broker=broker) as client, asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_the_other(client))


async def _journal_records(broker: KafkaBroker, catalogue: Catalogue) -> int:
    """Return the offsets that a restore of all shards would span."""
    partitions = [Partition(catalogue.name("journal"), number) for number in range(catalogue.partitions)]
    begins, ends = await broker.admin.begin_offsets(partitions), await broker.admin.end_offsets(partitions)
    return sum(ends[one] - begins[one] for one in partitions)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.resume", description=__doc__)
    parser.add_argument("--load-s", type=float, default=SHORT_S, help="seconds of full load before the kills (30)")
    uvloop.run(run(parser.parse_args().load_s))
