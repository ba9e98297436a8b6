"""The control plane's host on the simulated log, in Faust's place: reads `outcomes` for it, and lets time pass."""

from __future__ import annotations

import asyncio

from streams.breakers.feed import partitions_of
from streams.broker.port import Broker
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.records.topics import Catalogue


async def host(plane: ControlPlane, broker: Broker, catalogue: Catalogue, settings: ControlSettings) -> None:
    """Give *plane* every partition, and run it until cancelled.

    Like Faust, which commits every few seconds, it reads again what came in since its last commit when it starts.
    """
    partitions = partitions_of(catalogue, "outcomes")
    group = f"{catalogue.namespace}-control"
    await plane.assign(frozenset(partition.number for partition in partitions))
    async with broker.reader(group=group) as reader, asyncio.TaskGroup() as tasks:
        committed = await broker.admin.group_offsets(group, partitions)
        await reader.assign({**await broker.admin.begin_offsets(partitions), **committed})
        tasks.create_task(_tick(plane, settings.tick_s))
        while True:
            for partition, records in (await reader.poll(max_records=500, timeout_s=1.0)).items():
                for record in records:
                    await plane.take(partition.number, record.value or b"")
                if records[-1].offset % 20 == 19:
                    await reader.commit({partition: records[-1].offset + 1})


async def _tick(plane: ControlPlane, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await plane.tick()
