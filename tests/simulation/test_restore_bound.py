"""A restore that takes longer than tombstones stay is not trusted: the shard says so, and tries again."""

import asyncio
from random import Random

from streams import App
from streams.broker.port import TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.records.topics import Catalogue
from streams.shards.role import ShardRole
from streams.shards.settings import ShardSettings
from streams.testing.virtual_time import run


class Hasty(Catalogue):
    """At first keeps tombstones for less than a question to the log takes."""

    questions = 0

    def tombstones_s(self, name: str) -> float:
        Hasty.questions += 1
        return 1e-6 if Hasty.questions == 1 else super().tombstones_s(name)


def test_a_shard_that_was_read_too_slowly_is_read_again():
    Hasty.questions = 0

    async def scenario() -> str:
        catalogue, log = Hasty("bound", 1), SimulatedLog(Random(1))
        log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in catalogue.topics()])
        role = ShardRole(
            App("bound"), SimulatedBroker(log, Process("p")), catalogue, ShardSettings(), instance_id="s",
            now=lambda: log.now_ms() / 1000, clock=asyncio.get_running_loop().time, watch=False,
        )  # fmt: skip
        working = asyncio.create_task(role.run())
        said = ""
        async with asyncio.timeout(300):
            while 0 not in role.processors or not role.processors[0].ready.is_set():
                said = said or (role.processors[0].stuck if role.processors else "")
                await asyncio.sleep(0.1)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return said

    said = run(scenario(), seed=1)
    assert "RestoreTooSlow: shard 0 was not restored: 0 records were read, the end of bound.journal" in said
    assert "start more processes" in said


def test_the_journal_keeps_tombstones_for_minutes_and_state_for_an_hour():
    catalogue = Catalogue("bound", 1)
    assert catalogue.tombstones_s("journal") == 120
    assert catalogue.tombstones_s("state-deltas") == 3_600
