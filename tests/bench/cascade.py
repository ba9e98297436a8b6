"""The cascade re-enacted: ten times the pilot's 12,000 invocations a day, a pool of 10, one tool that hangs for 30 s.

The real roles (shards, tool worker, control plane) run on the simulated log in virtual time, so hours at their own pace
take a minute, and the same seed gives the same figures. Every second invocation needs the tool `crm`, all of them need
the tool `ledger`, which is well throughout; both share the worker's 10 places, as everything did in the pilot. `crm` is
well at first, then hangs on 2 % of its calls, then on all, then is well again. It happens twice: with breakers, and
with the same breakers ordered to `metrics-only`, as an operator would.

An invocation is a success when its result is there within 60 s of its submission with the ledger's own answer in it; a
declared fallback in place of the hanging tool's answer counts (and is `degraded`), one in place of the ledger's does
not. `others_*` are of the half that does not need `crm`.

    python -m tests.bench.cascade [--hours 24] [--compress 24] [--failure-rate 0.02] [--plot cascade.png]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import orjson
from pydantic import BaseModel

from streams import App, Context
from streams.breakers import BreakerSettings
from streams.breakers.feed import partitions_of
from streams.breakers.operators import give_order
from streams.broker.port import Message, Partition, TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog, current_process
from streams.broker.table import read_to_end
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.records import decode_as, encode
from streams.records.control import BreakerState
from streams.records.invocations import Invocation, Result
from streams.records.topics import Catalogue
from streams.shards.role import ShardRole
from streams.shards.settings import ShardSettings
from streams.testing.virtual_time import run as run_virtually
from streams.tools.role import ToolRole
from streams.tools.settings import ToolSettings
from tests.simulation import application
from tests.simulation.controllers import host
from tests.simulation.world import only_seeded

A_DAY = 120_000
POOL = 10
HANG_S = 30.0
IN_TIME_S = 60.0
SHARES = ((0.0, 0.15), (0.02, 0.4), (1.0, 0.2), (0.0, 0.25))
"""Share of `crm` calls that hang, and the part of the time for which they do."""
PHASES = ("healthy", "2 % hang", "100 % hang", "healed")
BINS = 60
"""Of the picture, over the whole time."""
CATALOGUE = Catalogue("cascade", 2)
CONTROL = ControlSettings(tick_s=0.5, sample_s=5.0)


class Ask(BaseModel):
    """One request."""

    key: str
    crm: bool


@dataclass
class Outside:
    """What the tools stand for.

    Attributes:
        hanging: Share of calls that hang.
        calls: Calls that reached `crm`; *hung* those of them that hung.
    """

    random: Random
    hanging: float = 0.0
    calls: int = 0
    hung: int = 0

    async def crm(self) -> str:
        """Answer within 100 ms, or not at all."""
        self.calls += 1
        if self.random.random() < self.hanging:
            self.hung += 1
            await asyncio.sleep(10 * HANG_S)
        await asyncio.sleep(0.02 + 0.08 * self.random.random())
        return "gold"

    async def ledger(self) -> int:
        """Answer within 100 ms."""
        await asyncio.sleep(0.02 + 0.08 * self.random.random())
        return 7


@dataclass
class Sent:
    """One invocation as its caller sees it."""

    at_s: float
    phase: int
    needs_crm: bool
    took_s: float | None = None
    good: bool = False
    degraded: bool = False


@dataclass
class Scene:
    """What happened in one of the two runs.

    Attributes:
        depth: Invocations that were submitted and not answered, second by second.
    """

    breakers: bool
    sent: dict[str, Sent] = field(default_factory=dict)
    depth: list[int] = field(default_factory=list)
    unanswered: int = 0
    crm_calls: list[int] = field(default_factory=lambda: [0] * len(PHASES))
    history: list[BreakerState] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)

    def lines(self) -> list[dict[str, Any]]:
        """Return a line for each phase, by when invocations were submitted."""
        found, began = [], 0.0
        for number, name in enumerate(PHASES):
            of_phase = [sent for sent in self.sent.values() if sent.phase == number]
            others = [sent for sent in of_phase if not sent.needs_crm]
            end = self.ends_s[number]
            found.append(
                {
                    "bench": "cascade",
                    "breakers": self.breakers,
                    "phase": name,
                    "invocations": len(of_phase),
                    "success_rate": round(statistics.mean(s.good for s in of_phase), 4),
                    "degraded_rate": round(statistics.mean(s.degraded for s in of_phase), 4),
                    "p50_s": _quantile(of_phase, 0.5),
                    "p99_s": _quantile(of_phase, 0.99),
                    "others_success_rate": round(statistics.mean(s.good for s in others), 4),
                    "others_p99_s": _quantile(others, 0.99),
                    "max_depth": max(self.depth[int(began) : max(int(end), int(began) + 1)]),
                    "crm_calls": self.crm_calls[number],
                }
            )
            began = end
        return found


def _quantile(sent: Sequence[Sent], share: float) -> float:
    """Return the latency that *share* of the invocations did not exceed, in seconds."""
    latencies = sorted(float("inf") if one.took_s is None else one.took_s for one in sent)
    return round(latencies[int(len(latencies) * share)], 2)


def declare(outside: Outside) -> App:
    """Return the application."""
    app = App("cascade")

    @app.tool(timeout=HANG_S, effect="read", fallback="unknown", attempts=1, concurrency=POOL, max_wait=60)
    async def crm() -> str:
        return await outside.crm()

    @app.tool(timeout=HANG_S, effect="read", fallback=-1, attempts=1, concurrency=POOL, max_wait=60)
    async def ledger() -> int:
        return await outside.ledger()

    @app.agent(key="key")
    async def answer(ctx: Context[None], request: Ask) -> dict[str, Any]:
        status = await crm() if request.crm else ""
        return {"status": status, "balance": await ledger()}

    return app


async def enact(scene: Scene, seed: int, length_s: float, rate: float, breakers: BreakerSettings) -> None:
    """Let it happen, and note it in *scene*.

    Args:
        rate: Invocations a second.
        breakers: Thresholds of the run with breakers.
    """
    loop, random = asyncio.get_running_loop(), Random(f"cascade {seed}")
    log = SimulatedLog(Random(f"log {seed}"))
    log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in CATALOGUE.topics()])
    outside = Outside(Random(f"outside {seed}"))
    broker = SimulatedBroker(log, "callers")
    tasks = [
        Process(name).spawn(start(log, outside, Random(f"{name} {seed}"), breakers))
        for name, start in (("shards", _shards), ("tools", _tools), ("control", _control))
    ]
    tasks.append(loop.create_task(_collect(scene, broker)))
    if not scene.breakers:
        await give_order(
            broker, CATALOGUE, "metrics-only", "tool:crm",
            by="bench", reason="the run without breakers", now_ms=log.now_ms(), order_id="1",
        )  # fmt: skip
    begin = loop.time()
    tasks.append(loop.create_task(_watch(scene)))
    async with broker.producer() as producer:
        for number, (hanging, part) in enumerate(SHARES):
            outside.hanging, before = hanging, outside.calls
            end = loop.time() + part * length_s
            while (pause_s := random.expovariate(rate)) + loop.time() < end:
                await asyncio.sleep(pause_s)
                await _submit(scene, producer, log, number, random)
            await asyncio.sleep(max(0.0, end - loop.time()))
            scene.ends_s.append(loop.time() - begin)
            scene.crm_calls[number] = outside.calls - before
    await asyncio.sleep(3 * IN_TIME_S)
    async for batch in read_to_end(broker, partitions_of(CATALOGUE, "breakers")):
        scene.history += [decode_as(BreakerState, record.value or b"") for record in batch]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=60)


async def _shards(log: SimulatedLog, outside: Outside, random: Random, breakers: BreakerSettings) -> None:
    role = ShardRole(
        declare(outside), SimulatedBroker(log, _process()), CATALOGUE, ShardSettings(), breakers=breakers,
        now=lambda: log.now_ms() / 1000, clock=asyncio.get_running_loop().time, watch=False,
    )  # fmt: skip
    await role.run()


async def _tools(log: SimulatedLog, outside: Outside, random: Random, breakers: BreakerSettings) -> None:
    role = ToolRole(
        declare(outside), SimulatedBroker(log, _process()), CATALOGUE, ToolSettings(concurrency=POOL),
        breakers=breakers, now=lambda: log.now_ms() / 1000, clock=asyncio.get_running_loop().time, random=random,
    )  # fmt: skip
    await role.run()


async def _control(log: SimulatedLog, outside: Outside, random: Random, breakers: BreakerSettings) -> None:
    broker = SimulatedBroker(log, _process())
    plane = ControlPlane(broker, CATALOGUE, CONTROL, breakers=breakers, now_ms=log.now_ms, rng=random)
    await host(plane, broker, CATALOGUE, CONTROL)


def _process() -> Process:
    process = current_process.get()
    assert process is not None
    return process


async def _submit(scene: Scene, producer: Any, log: SimulatedLog, phase: int, random: Random) -> None:
    number = str(len(scene.sent))
    ask = Ask(key=f"c-{random.randrange(10_000)}", crm=random.random() < 0.5)
    now_ms = log.now_ms()
    invocation = Invocation("answer", ask.key, number, ask.model_dump_json().encode(), now_ms, now_ms + 3_600_000)
    scene.sent[number] = Sent(asyncio.get_running_loop().time(), phase, ask.crm)
    scene.unanswered += 1
    await producer.send(Message(CATALOGUE.name("invocations"), invocation.agent_id.encode(), encode(invocation)))


async def _collect(scene: Scene, broker: SimulatedBroker) -> None:
    loop = asyncio.get_running_loop()
    partitions = [Partition(CATALOGUE.name("results"), number) for number in range(CATALOGUE.partitions)]
    async with broker.reader() as reader:
        await reader.assign(await broker.admin.begin_offsets(partitions))
        while True:
            for records in (await reader.poll(max_records=500, timeout_s=1.0)).values():
                for record in records:
                    result = decode_as(Result, record.value or b"")
                    sent = scene.sent[result.idempotency_key]
                    scene.unanswered -= sent.took_s is None
                    sent.took_s, sent.degraded = loop.time() - sent.at_s, result.degraded
                    value = orjson.loads(result.value or b"{}")
                    sent.good = value.get("balance") == 7 and sent.took_s <= IN_TIME_S


async def _watch(scene: Scene) -> None:
    while True:
        scene.depth.append(scene.unanswered)
        await asyncio.sleep(1)


def play(*, breakers: bool, hours: float, compress: float, failure_rate: float, seed: int = 1) -> Scene:
    """Run one of the two on a virtual loop of its own, and return what happened."""
    settings = BreakerSettings(window_s=30, minimum_calls=5, failure_rate=failure_rate)
    rate, length_s = A_DAY / 86_400 * compress, hours * 3600 / compress
    scene = Scene(breakers)
    logging.disable(logging.WARNING)  # every transition and every late call would be a line
    try:
        with only_seeded(seed, application.outside):
            run_virtually(enact(scene, seed, length_s, rate, settings), seed=seed, max_steps=10**10)
    finally:
        logging.disable(logging.NOTSET)
    return scene


def draw(scenes: Sequence[Scene], path: Path) -> None:
    """Write a picture of success and queue depth over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    success, depth = figure.subplots(2, 1, sharex=True)
    for scene in scenes:
        label, colour = ("with breakers", "tab:green") if scene.breakers else ("without", "tab:red")
        first_s = min(sent.at_s for sent in scene.sent.values())
        bins: dict[int, list[bool]] = {}
        for sent in scene.sent.values():
            bins.setdefault(int((sent.at_s - first_s) / scene.ends_s[-1] * BINS), []).append(sent.good)
        shares = [100 * statistics.mean(good) for good in bins.values()]
        middles = [(n + 0.5) / BINS * scene.ends_s[-1] / 60 for n in bins]
        success.plot(middles, shares, color=colour, label=label)
        depth.plot([n / 60 for n in range(len(scene.depth))], [d + 1 for d in scene.depth], color=colour, label=label)
    began = 0.0
    for name, end_s in zip(PHASES, scenes[0].ends_s, strict=True):
        for axes in (success, depth):
            if "hang" in name:
                axes.axvspan(began / 60, end_s / 60, color="0.92" if name.startswith("2") else "0.82")
        success.text((began + end_s) / 120, 108, name, ha="center", va="bottom", fontsize=9)
        began = end_s
    success.set_ylabel(f"answered well\nwithin {IN_TIME_S:g} s, %")
    success.set_ylim(-3, 106)
    success.legend(loc="lower left")
    depth.set_ylabel("unanswered invocations + 1")
    depth.set_yscale("log")
    depth.set_xlabel("minutes")
    depth.set_xlim(0, began / 60)
    figure.savefig(path, dpi=100)


async def run() -> None:
    """Print a JSON line for each phase, with breakers and without: an hour of the day, and four 24 times as dense."""
    for hours, compress in ((1.0, 1.0), (4.0, 24.0)):
        # A loop of virtual time does not run inside another one.
        await asyncio.to_thread(report, hours, compress=compress)


def report(hours: float, *, compress: float = 1.0, failure_rate: float = 0.5, plot: Path | None = None) -> None:
    """Print the lines of both runs, and draw them."""
    scenes = []
    for breakers in (False, True):
        began = time.perf_counter()
        scene = play(breakers=breakers, hours=hours, compress=compress, failure_rate=failure_rate)
        scenes.append(scene)
        for line in scene.lines():
            print(json.dumps({**line, "compress": compress}))
        leases = [state for state in scene.history if state.probe_holder]
        opened = sum(state.phase == "open" for state in scene.history)
        took_s = round(time.perf_counter() - began, 1)
        total = {
            "bench": "cascade",
            "breakers": breakers,
            "openings": opened,
            "leases": len(leases),
            "compress": compress,
            "took_s": took_s,
        }
        print(json.dumps(total), flush=True)
    if plot is not None:
        draw(scenes, plot)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cascade", description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0, help="of the day that is re-enacted; 24 is all of it")
    parser.add_argument("--plot", type=Path, help="write a picture (PNG or SVG) there")
    parser.add_argument("--compress", type=float, default=1.0, help="as many times as dense; 24 is a day in an hour")
    parser.add_argument("--failure-rate", type=float, default=0.5, help="of the breakers, by which they open")
    given = parser.parse_args()
    report(given.hours, compress=given.compress, failure_rate=given.failure_rate, plot=given.plot)


if __name__ == "__main__":
    main()
