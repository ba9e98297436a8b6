"""What a handler leaves behind when it returns has no say any more."""

import asyncio

from pydantic import BaseModel

from streams import App, Context
from streams.records import decode
from streams.records.invocations import Invocation
from streams.records.state import StateDelta
from streams.shards.effects import Event
from streams.shards.engine import Engine


class Request(BaseModel):
    customer: str


class Memory(BaseModel):
    count: int = 0


def test_a_task_that_nobody_awaits_changes_nothing_after_the_return():
    app = App("leftovers")

    @app.agent(key="customer", state=Memory)
    async def hasty(ctx: Context[Memory], request: Request) -> int:
        async def later() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            ctx.state.count += 100

        leftover = asyncio.create_task(later())
        await asyncio.sleep(0)
        ctx.state.count += 1
        assert not leftover.done()
        return ctx.state.count

    engine = Engine(app, partition=0, partition_of=lambda agent: 0)
    writes = engine.step([Event("invocations", Invocation("hasty", "c", "k", b'{"customer": "c"}', 0, 10_000))], 1.0)
    records = {write.kind: decode(write.value) for write in writes if write.value}
    assert records["results"].value == b"1"
    delta = records["state-deltas"]
    assert isinstance(delta, StateDelta)
    assert delta.value == b"1"
