"""A handler that kills its process, whenever it does: set aside and answered as failed, its neighbours go on."""

import asyncio
from random import Random

import pytest
from pydantic import BaseModel

from streams import App, Context
from streams.broker.port import Message, TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.simulated.process import current_process
from streams.records import decode_as, encode, headers
from streams.records.control import DeadLetter
from streams.records.invocations import Invocation, Result
from streams.records.topics import Catalogue
from streams.shards.role import ShardRole
from streams.shards.settings import ShardSettings
from streams.testing.virtual_time import run
from tests.simulation.hosts import Host

CATALOGUE = Catalogue("poison", 1)
app = App("poison")


class Ask(BaseModel):
    key: str
    deadly: bool = False
    before_s: float = 0.0


class Killed(BaseException):
    """Ends the step where the process died."""


@app.agent(key="key")
async def agent(ctx: Context[None], ask: Ask) -> str:
    if ask.before_s:
        await asyncio.sleep(ask.before_s)
    if ask.deadly:
        process = current_process.get()
        assert process is not None
        process.kill()
        raise Killed
    return "fine"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("first", "deadly"),
    [
        (Ask(key="a"), Ask(key="a", deadly=True)),
        (Ask(key="a"), Ask(key="a", deadly=True, before_s=0.2)),
        (Ask(key="a", before_s=1.0), Ask(key="a", deadly=True)),
        (Ask(key="a", before_s=1.0), Ask(key="a", deadly=True, before_s=0.2)),
    ],
    ids=["at its start", "when it wakes", "when its turn comes", "when it wakes after its turn has come"],
)
def test_only_the_deadly_one_fails(seed, first, deadly):
    asks = [first, deadly, Ask(key="a"), Ask(key="b"), Ask(key="b", before_s=0.5)]

    async def scenario() -> tuple[list[Result], list[DeadLetter]]:
        log = SimulatedLog(Random(seed))
        log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in CATALOGUE.topics()])

        async def shards(process: Process) -> None:
            role = ShardRole(
                app, SimulatedBroker(log, process), CATALOGUE, ShardSettings(), instance_id="s",
                now=lambda: log.now_ms() / 1000, clock=asyncio.get_running_loop().time,
                die=lambda _: process.kill(), watch=False,
            )  # fmt: skip
            await role.run()

        host = Host("shards", shards, Random(seed), [])
        supervisor = asyncio.create_task(host.run())
        for number, ask in enumerate(asks):
            now_ms = log.now_ms()
            data = ask.model_dump_json().encode()
            record = encode(Invocation("agent", ask.key, f"k{number}", data, now_ms, now_ms + 3_600_000))
            log.write([Message("poison.invocations", b"agent/a", record, 0, headers.internal("invocation"))])
        async with asyncio.timeout(300):
            while len(log.records("poison.results")) < len(asks):  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        supervisor.cancel()
        host.process.kill()
        results = [decode_as(Result, r.value or b"") for r in log.records("poison.results")]
        return results, [decode_as(DeadLetter, r.value or b"") for r in log.records("poison.dead-letters")]

    results, letters = run(scenario(), seed=seed)
    ended = {result.idempotency_key: result.status for result in results}
    assert ended == {f"k{n}": "failed" if ask.deadly else "succeeded" for n, ask in enumerate(asks)}
    assert len(letters) == 1
    assert "agent/a/k1 ended its process 3 times" in letters[0].reason
