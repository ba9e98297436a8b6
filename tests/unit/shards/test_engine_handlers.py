"""Handlers behave as in asyncio, and a crash at any step changes nothing that anyone can see."""

import asyncio
import contextvars
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from streams import App, Context
from streams.client.outcome import InvocationResult
from streams.shards.effects import ShardLimits
from streams.testing import Simulation, StillWaiting
from tests.simulation import application
from tests.simulation.application import Ask, Outside, Reply, deploy
from tests.simulation.programs import LEVELS, Author
from tests.unit.shards.shard import Shard

app = App("handlers")
color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


class Item(BaseModel):
    key: str = "a"
    n: int = 3


@app.tool(timeout=5, effect="read", fallback=-1)
async def look(n: int) -> int:
    raise NotImplementedError


@app.tool(timeout=5, effect="read", fallback=-1)
async def linger(n: int) -> int:
    raise NotImplementedError


@app.agent(key="key")
async def gathers(ctx: Context[None], item: Item) -> list[int]:
    return list(await asyncio.gather(look(1), linger(2), look(3)))


@app.agent(key="key")
async def groups(ctx: Context[None], item: Item) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(look(n)) for n in range(item.n)]
    return [task.result() for task in tasks]


@app.agent(key="key")
async def fails_in_a_group(ctx: Context[None], item: Item) -> str:
    async def fail() -> None:
        await look(1)
        raise ValueError("one fails")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            other = group.create_task(linger(2))
    except* ValueError:
        pass
    return f"other cancelled: {other.cancelled()}"


@app.agent(key="key")
async def times_out(ctx: Context[None], item: Item) -> str:
    started = ctx.now()
    try:
        async with asyncio.timeout(2):
            await linger(1)
    except TimeoutError:
        return f"after {(ctx.now() - started).total_seconds():g} s, then {await look(4)}"
    return "in time"


@app.agent(key="key")
async def sleeps(ctx: Context[None], item: Item) -> float:
    started = ctx.now()
    await asyncio.gather(asyncio.sleep(3_600), asyncio.sleep(60))
    return (ctx.now() - started).total_seconds()


@app.agent(key="key")
async def context_variables(ctx: Context[None], item: Item) -> list[str]:
    async def branch(name: str) -> str:
        color.set(name)
        await look(1)
        return color.get()

    color.set("outer")
    inner = await asyncio.gather(branch("red"), branch("blue"))
    return [*inner, color.get()]


@app.agent(key="key")
async def random_things(ctx: Context[None], item: Item) -> list[Any]:
    return [ctx.random(), str(ctx.uuid()), await look(1), ctx.random(), str(ctx.uuid())]


@app.agent(key="key")
async def cleans_up(ctx: Context[None], item: Item) -> str:
    try:
        await asyncio.sleep(10_000)
    finally:
        await look(9)
    return "never"


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (gathers, [1, 2, 3]),
        (groups, [0, 1, 2]),
        (fails_in_a_group, "other cancelled: True"),
        (times_out, "after 2 s, then 4"),
        (sleeps, 3_600.0),
        (context_variables, ["red", "blue", "outer"]),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
async def test_it_behaves_as_in_asyncio_with_and_without_a_crash_at_every_step(simulation, agent, expected, killed):
    world = simulation(app, tools={"look": lambda n: n, "linger": lambda n: n}, seconds={"linger": 4.0})
    if killed:
        world.kill_every_step()
    result = await world.invoke(agent, Item())
    assert result.value == expected


async def test_randomness_survives_a_crash(simulation):
    values = []
    for killed in (False, True):
        world = simulation(app, tools={"look": lambda n: n})
        if killed:
            world.kill_every_step()
        values.append((await world.invoke(random_things, Item(), idempotency_key="same")).value)
    assert values[0] == values[1]
    assert values[0][0] != values[0][3]


async def test_cancelling_runs_the_cleanup_and_ends_as_cancelled(simulation):
    world = simulation(app, tools={"look": lambda n: n})
    identity = await world.submit(cleans_up, Item())
    await world.run(5)
    world.kill_every_step()
    await world.cancel(identity, "enough")
    await world.run()
    assert world.result(identity).status == "cancelled"
    assert [call.arguments for call in world.calls] == [{"n": 9}]


def test_handlers_that_went_cold_are_run_again():
    shard = Shard(app, max_hot=1)
    for number in range(5):
        shard.invoke(groups, Item(key=f"{number}"))
    for call in list(shard.calls):
        shard.answer(call, b"8")
    assert [r.value for r in shard.results] == [b"[8,8,8]"] * 5
    assert shard.engine.counters.replayed >= 4


async def _play(seed: int, *, killed: bool, limits: ShardLimits | None = None) -> tuple[Any, ...]:
    """Run one random program and return everything that can be seen of it from outside."""
    draw = Random(seed)
    level = draw.randint(0, 1)
    author = Author(draw, ("a", "b"))
    program = author.program(level, (f"{LEVELS[level]}/a",), top=True)
    deployed = deploy(newest=True)
    agent = deployed.latest(LEVELS[level])
    fakes = {name: lambda site, name=name: len(site) + len(name) for name in deployed.tools}
    before, application.outside = application.outside, Outside(Random(0), flaky=0.0)
    try:
        async with Simulation(
            deployed, tools=fakes, models={"fast": "well"}, seconds={"slow": 1.0, "hang": 5.0}, limits=limits
        ) as world:
            if killed:
                world.kill_every_step()
            identity = await world.submit(agent, Ask(key="a", program=program), idempotency_key="k")
            for value, name in enumerate(author.signals):
                await world.signal(identity, name, value, signal_id=f"{value}")
                await world.signal(identity, name, value, signal_id=f"{value}")
            await world.run()
            result: InvocationResult[Any] = world.result(identity)
            reply = Reply.model_validate(result.value).seen if result.succeeded else result.error_type
            calls = [(call.name, tuple(call.arguments.items()), call.step) for call in world.calls]
            assert world.transactions
            return result.status, reply, calls, world.now_s, world.state(agent, "a").model_dump(exclude={"notes"})
    finally:
        application.outside = before


@pytest.mark.parametrize("start", range(0, 60, 10))
async def test_a_crash_at_every_step_of_a_random_handler_changes_nothing(start):
    for seed in range(start, start + 10):
        plain = await _play(seed, killed=False)
        assert await _play(seed, killed=True) == plain, f"seed {seed}"
        assert await _play(seed, killed=True, limits=ShardLimits(max_hot=1, chunk_bytes=100)) == plain, f"seed {seed}"


async def test_what_is_missing_is_named(simulation):
    world = simulation(app)
    with pytest.raises(Exception, match="called tool 'look', which has no fake"):
        await world.invoke(groups, Item())
    with pytest.raises(Exception, match="has no tool 'lok'"):
        simulation(app, tools={"lok": None})
    world = simulation(app)
    identity = await world.submit(cleans_up, Item())
    await world.run(1)
    with pytest.raises(StillWaiting, match="timer"):
        world.result(identity)


@app.agent(key="key")
async def clings(ctx: Context[None], item: Item) -> None:
    try:
        await asyncio.sleep(10_000)
    finally:
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that it clings is the point
def test_a_dropped_handler_is_closed_for_good_however_often_it_waits_in_its_cleanup():
    shard = Shard(app)
    live = shard.engine.live[shard.invoke(clings, Item())]
    run = live.run
    assert run is not None
    assert run.task is not None
    coroutine: Any = run.task.get_coro()
    shard.restart()
    assert coroutine.cr_frame is None
