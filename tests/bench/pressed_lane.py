"""A lane under spikes in virtual time: control plane, shards, tool worker and clients of the product on the simulated
log, with users in front of them who want more than the tool can do.

What was true is read from the log afterwards, not from anything that the product has measured: how many invocations
each partition had, and how many of them were answered.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random

from pydantic import BaseModel

from streams import App, Client, Context, load_settings
from streams.backpressure import BackpressurePolicy
from streams.broker.port import LogRecord, TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.simulated.timing import Timing
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.records import decode_as
from streams.records.control import BackpressureSignal
from streams.shards.role import ShardRole
from streams.tools.role import ToolRole
from streams.tools.settings import ToolSettings
from tests.bench.pipeline import quiet

EPOCH_S = 1_767_225_600.0
CLIENTS = 4
PARTITIONS = 2
CALL_S = 0.5
AGENTS = 500
PerS = Callable[[float], float]


class Work(BaseModel):
    customer: str


@dataclass
class Run:
    """What happened.

    Attributes:
        wanted, published, answered: Times in seconds, in order; the latter two by partition.
        took_s: From publishing to the result, of every invocation.
        signals: Every signal that was published, with its time.
        lags: Lag in seconds at each sample of the control plane.
        failed: Submissions that raised, or whose result was not a success.
    """

    capacity_per_s: float
    policy: BackpressurePolicy
    wanted: list[float] = field(default_factory=list)
    published: list[list[float]] = field(default_factory=list)
    answered: list[list[float]] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    signals: list[tuple[float, BackpressureSignal]] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0

    def backlog(self, partition: int, at_s: float) -> int:
        """Invocations of a partition that were published and not answered at a time."""
        return bisect_right(self.published[partition], at_s) - bisect_right(self.answered[partition], at_s)

    def at_target_s(self, after_s: float, target: float) -> float:
        """When every partition was at its target for the first time after *after_s*."""
        return max(self._reached(p, after_s, target) for p in range(PARTITIONS))

    def _reached(self, partition: int, after_s: float, target: float) -> float:
        at_s = after_s
        answered = self.answered[partition]
        for at_s in [after_s, *answered[bisect_left(answered, after_s) :]]:
            if self.backlog(partition, at_s) <= target:
                break
        return at_s


def run_lane(
    demand: PerS, seconds: float, policy: BackpressurePolicy, *, places: int, obey: bool = True
) -> Callable[[], Run]:
    """Return what runs a lane, on a virtual loop of its own.

    Args:
        demand: Invocations that users want per second, by time.
        seconds: For how long they want anything; what they wanted is waited for.
        places: Calls that the tool takes at a time, each of half a second.
        obey: With backpressure; without, clients publish whatever is wanted.
    """
    from streams.testing.virtual_time import run

    def work() -> Run:
        with quiet():
            return run(_run(demand, seconds, policy, places, obey), seed=1, max_time_s=1e6, max_steps=2_000_000_000)

    return work


async def _run(demand: PerS, seconds: float, policy: BackpressurePolicy, places: int, obey: bool) -> Run:
    log = SimulatedLog(Random(1), epoch_s=EPOCH_S, timing=Timing(slow_every=0))
    app, loop = App("pressed"), asyncio.get_running_loop()
    random = Random(2)

    @app.tool(timeout=300, effect="read", fallback="late", concurrency=places)
    async def look(customer: str) -> str:
        await asyncio.sleep(CALL_S * random.uniform(0.5, 1.5))
        return customer

    @app.agent(key="customer", version="1")
    async def looker(ctx: Context[None], request: Work) -> str:
        return await look(request.customer)

    settings = load_settings(
        namespace="bench",
        partitions=PARTITIONS,
        shards={"max_working": 100},
        client={"max_wait_s": 1e6, "default_deadline_s": 1e6, "max_waiting": 100_000},
    )
    catalogue = settings.catalogue(app.name)
    log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in catalogue.topics()])

    def now() -> float:
        return EPOCH_S + loop.time()

    found = Run(places / CALL_S, policy)
    brokers = [SimulatedBroker(log, Process(name)) for name in ("shards", "tools", "control")]
    shards = ShardRole(app, brokers[0], catalogue, settings.shards, now=now, clock=loop.time, watch=False)
    tools = ToolRole(app, brokers[1], catalogue, ToolSettings(max_open=2_000), now=now, clock=loop.time, random=random)
    plane = ControlPlane(
        brokers[2], catalogue, ControlSettings(backpressure=policy, behind={}), now_ms=log.now_ms, rng=Random(3)
    )
    roles = [brokers[0].process.spawn(shards.run()), brokers[1].process.spawn(tools.run())]
    if obey:
        await plane.assign(frozenset({0}))
    controlling = asyncio.create_task(_control(plane, found, loop, obey=obey))
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                Client(app, settings=settings, broker=SimulatedBroker(log, f"client-{n}"), now=now)
            )
            for n in range(CLIENTS)
        ]
        await _users(clients, demand, seconds, found, loop)
    controlling.cancel()
    await asyncio.gather(controlling, return_exceptions=True)
    for role in roles:
        role.cancel()
    await asyncio.gather(*roles, return_exceptions=True)
    await plane.close()
    _read_truth(log, found)
    return found


async def _control(plane: ControlPlane, found: Run, loop: asyncio.AbstractEventLoop, *, obey: bool) -> None:
    while True:
        await asyncio.sleep(0.5)
        if not obey:
            continue
        await plane.sample()
        if plane.report is not None:
            found.lags.append((loop.time(), plane.report.stages[0].lag_s))


async def _users(
    clients: list[Client], demand: PerS, seconds: float, found: Run, loop: asyncio.AbstractEventLoop
) -> None:
    random, began_s = Random(4), loop.time()

    async def one(client: Client, customer: str) -> None:
        handle = await client.submit("looker", Work(customer=customer), wait=True)
        result = await handle.result(timeout=1e6)
        found.failed += not result.succeeded or result.degraded

    async with asyncio.TaskGroup() as tasks:
        wanted = 0.0
        while (passed_s := loop.time() - began_s) < seconds:
            await asyncio.sleep(0.05)
            wanted += demand(passed_s) * 0.05
            while wanted >= 1:
                wanted -= 1
                found.wanted.append(loop.time())
                tasks.create_task(one(random.choice(clients), f"c-{random.randrange(AGENTS)}"))


def _read_truth(log: SimulatedLog, found: Run) -> None:
    began: dict[str, float] = {}
    found.published = [[] for _ in range(PARTITIONS)]
    found.answered = [[] for _ in range(PARTITIONS)]
    for record in log.records("bench.invocations"):
        began[_id(record)] = _at_s(record)
        found.published[record.partition].append(_at_s(record))
    for record in log.records("bench.results"):
        found.took_s.append(_at_s(record) - began.pop(_id(record)))
        found.answered[record.partition].append(_at_s(record))
    found.failed += len(began)
    for record in log.records("bench.backpressure"):
        found.signals.append((_at_s(record), decode_as(BackpressureSignal, record.value or b"")))


def _at_s(record: LogRecord) -> float:
    return record.timestamp_ms / 1000 - EPOCH_S


def _id(record: LogRecord) -> str:
    return next(value.decode() for name, value in record.headers if name == "ce_id")
