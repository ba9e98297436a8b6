"""A shard's dealings with the store, where they are more than the engine's and the reads' own."""

import asyncio
from collections.abc import Sequence
from random import Random

from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.records.signals import StateRead
from streams.records.topics import Catalogue
from streams.shards.effects import Event
from streams.shards.keeper import Keeper
from streams.shards.room import Room
from streams.testing.virtual_time import run
from tests.unit.shards.test_cold import Ask, Stored, counter
from tests.unit.shards.test_cold_reads import Desk


def test_what_waits_in_the_journal_is_asked_for_though_nothing_happens_in_the_shard():
    async def main() -> None:
        shard = Stored()
        shard.invoke(counter, Ask(key="a"), "1")
        shard.flush()
        shard.evict_all()
        shard.sweep()
        shard.arrive(StateRead("counter/a", "count", "client", "r1", 0), "signals")
        shard.restart()
        desk = Desk()

        async def step(events: Sequence[Event]) -> None:
            """No step comes."""

        keeper = Keeper(
            SimulatedBroker(SimulatedLog(Random(1))), Catalogue("keeper", 1), 0, shard.engine, room=Room(10**9),
            reads=desk.reads, step=step, sweep_every_s=60.0, tombstone_after_s=60.0, now=lambda: shard.now,
        )  # fmt: skip
        keeper.restored(10)
        reading = asyncio.create_task(desk.reads.run())
        await asyncio.sleep(1.0)
        reading.cancel()
        assert desk.source.queries == [["counter/a"]]

    run(main())
