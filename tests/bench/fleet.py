"""How soon a fleet on real Kafka opens and closes, and how often a dead dependency is asked, by its own count.

Callers with a guard each (as workers have one) and replicas (as shards have one) follow `breakers` of a control plane
in a process of its own. The dependency is a TCP server that counts its connections. It dies and heals, `rounds` times:

- `open`: from the failure that reaches the threshold to the last caller and replica that refuses.
- `close`: from the probe's good answer to the last that lets calls out.
- `probes` reached the dependency between those; `leases` is what `breakers` says: as many.

Then the same once more with a controller that is stopped (SIGSTOP) while the breaker is open, replaced, and woken.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from streams.breakers import BreakerSettings, BreakerView, Guard, Refusal, Transition
from streams.breakers.events import FLEET
from streams.breakers.feed import breakers_table, partitions_of, report_outcomes
from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker, TopicSpec
from streams.broker.table import read_to_end
from streams.control.role import ControlRole
from streams.control.settings import ControlSettings
from streams.records import decode_as
from streams.records.control import BreakerState
from streams.records.topics import Catalogue
from tests.bench.broker import kafka

ROUNDS = 5
CALLERS, REPLICAS = 4, 2
CALL_EVERY_S = 0.02
DEPENDENCY = "tool:crm"
# The grace is longer than it takes to replace a controller: here nobody decides for himself.
BREAKERS = BreakerSettings(window_calls=20, minimum_calls=10, open_s=1, open_ceiling_s=3, jitter=0.1, grace_s=30)


class Dependency:
    """Answers with one byte, and counts.

    Attributes:
        answered: (when, whether it was well) of each connection.
    """

    def __init__(self) -> None:
        self.well = True
        self.answered: list[tuple[float, bool]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        self.answered.append((time.monotonic(), self.well))
        writer.write(b"+" if self.well else b"-")
        await writer.drain()
        writer.close()

    def since(self, at_s: float) -> list[tuple[float, bool]]:
        """Return what was answered after a moment."""
        return [one for one in self.answered if one[0] > at_s]


@dataclass
class World:
    """Everything but the control plane."""

    broker: Broker
    catalogue: Catalogue
    dependency: Dependency
    port: int
    guards: list[Guard] = field(default_factory=list)
    views: list[BreakerView] = field(default_factory=list)
    closings: list[float] = field(default_factory=list)

    def note(self, change: Transition, decided_by: str) -> None:
        """Keep when a caller heard that it may call again."""
        if change.after.phase == "closed" and decided_by == FLEET:
            self.closings.append(time.monotonic())

    def probes(self, opened_at: float) -> int:
        """Return the calls that reached the dependency until the first caller heard that it may call again."""
        closed_at = min(at for at in self.closings if at > opened_at)
        return sum(opened_at < at < closed_at for at, _ in self.dependency.answered)

    async def controlled(self) -> None:
        """Return once a control plane publishes."""
        signals = partitions_of(self.catalogue, "backpressure")
        async with asyncio.timeout(60):
            while not any((await self.broker.admin.end_offsets(signals)).values()):  # noqa: ASYNC110 - asked of Kafka
                await asyncio.sleep(0.1)

    def all_refuse(self) -> bool:
        """Tell whether the fleet's opening has reached everybody."""
        now = now_ms()
        by_fleet = all(g.state.phase == "open" and g.state.epoch > 0 for g in self.guards)
        return by_fleet and all(view.refuses(DEPENDENCY, now) for view in self.views)

    def all_admit(self) -> bool:
        """Tell whether the fleet's closing has reached everybody."""
        now = now_ms()
        return all(g.phase == "closed" for g in self.guards) and not any(v.refuses(DEPENDENCY, now) for v in self.views)

    async def history(self) -> list[BreakerState]:
        """Return all records of the breaker."""
        found = []
        async for batch in read_to_end(self.broker, partitions_of(self.catalogue, "breakers")):
            found += [decode_as(BreakerState, record.value or b"") for record in batch]
        return found

    async def call_for_ever(self, guard: Guard) -> None:
        """Make calls as a worker would."""
        while True:
            admitted = guard.admit(now_ms())
            if not isinstance(admitted, Refusal):
                began = time.monotonic()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                ok = await reader.read(1) == b"+"
                writer.close()
                guard.record(admitted, not ok, time.monotonic() - began, now_ms(), "" if ok else "ConnectionError")
            await asyncio.sleep(CALL_EVERY_S * (0.5 + random.random()))


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


async def until(reached: Callable[[], bool], what: str, within_s: float = 60.0) -> float:
    """Return the moment at which *reached*."""
    end = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {within_s:g} s")
        await asyncio.sleep(0.002)
    return time.monotonic()


@asynccontextmanager
async def world(bootstrap: str) -> AsyncIterator[World]:
    """Start callers, replicas and the dependency."""
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap))
    catalogue, dependency = Catalogue(f"fleet-{uuid.uuid4().hex[:8]}", 1), Dependency()
    await broker.admin.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in catalogue.topics()])
    async with AsyncExitStack() as stack:
        stack.push_async_callback(broker.close)
        server = await asyncio.start_server(dependency.serve, "127.0.0.1", 0)
        await stack.enter_async_context(server)
        it = World(broker, catalogue, dependency, server.sockets[0].getsockname()[1])
        tasks = await stack.enter_async_context(_ending_group())
        for number in range(CALLERS):
            guard = Guard(
                DEPENDENCY, BREAKERS, f"worker-{number}", random.random, longest_call_s=1.0, on_change=it.note
            )
            it.guards.append(guard)
            await stack.enter_async_context(breakers_table(broker, catalogue, guard.apply))
            producer = await stack.enter_async_context(broker.producer())
            tasks.create_task(report_outcomes(producer, catalogue, guard.drain, every_s=0.25, now_ms=now_ms))
            tasks.create_task(it.call_for_ever(guard))
        for _ in range(REPLICAS):
            it.views.append(BreakerView(BREAKERS))
            await stack.enter_async_context(breakers_table(broker, catalogue, it.views[-1].apply))
        yield it


@asynccontextmanager
async def _ending_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A group whose tasks go on for ever and are cancelled at the end."""
    started: list[asyncio.Task[Any]] = []

    class Group(asyncio.TaskGroup):
        def create_task(self, *args: Any, **options: Any) -> asyncio.Task[Any]:
            started.append(super().create_task(*args, **options))
            return started[-1]

    async with Group() as group:
        try:
            yield group
        finally:
            for task in started:
                task.cancel()


@contextmanager
def controller(bootstrap: str, namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a control plane in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.fleet", bootstrap, namespace])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def fleet(bootstrap: str, rounds: int) -> dict[str, Any]:
    """Return the figures of dying and healing *rounds* times."""
    opens, closes, probes = [], [], 0
    async with world(bootstrap) as it:
        with controller(bootstrap, it.catalogue.namespace):
            await it.controlled()
            for _ in range(rounds):
                open_s, opened_at = await _die(it)
                opens.append(open_s)
                await asyncio.sleep(4.0)
                closes.append(await _heal(it, opened_at))
                probes += it.probes(opened_at)
        leases = sum(bool(state.probe_holder) for state in await it.history())
    return {
        "bench": "fleet",
        "case": "dies and heals",
        "callers": CALLERS + REPLICAS,
        "rounds": rounds,
        "open_p50_s": round(statistics.median(opens), 3),
        "open_max_s": round(max(opens), 3),
        "close_p50_s": round(statistics.median(closes), 3),
        "close_max_s": round(max(closes), 3),
        "probes": probes,
        "leases": leases,
    }


async def stopped_controller(bootstrap: str) -> dict[str, Any]:
    """Return what a dependency counts while its controller is stopped, replaced, and woken."""
    async with world(bootstrap) as it:
        namespace = it.catalogue.namespace
        with controller(bootstrap, namespace) as sleeper:
            await it.controlled()
            _, opened_at = await _die(it)
            os.kill(sleeper.pid, signal.SIGSTOP)
            asleep = (await it.history())[-1]
            with controller(bootstrap, namespace):
                taken_at = await until(lambda: it.views[0].states()[0].epoch > asleep.epoch, "the takeover")
                os.kill(sleeper.pid, signal.SIGCONT)
                # Longer than a lease and the longest opening, so that the one that woke has something to decide.
                await asyncio.sleep(7.0)
                await _heal(it, opened_at)
        probes = it.probes(opened_at)
        states = await it.history()
    generations = [(state.epoch, state.number) for state in states]
    return {
        "bench": "fleet",
        "case": "controller stopped and woken",
        "takeover_s": round(taken_at - opened_at, 1),
        "probes": probes,
        "leases": sum(bool(state.probe_holder) for state in states),
        "writes_out_of_order": sum(b <= a for a, b in pairwise(generations)),
    }


async def _die(it: World) -> tuple[float, float]:
    """Let the dependency die; return how long the fleet took to open after the threshold, and when it was open."""
    await asyncio.sleep(1.0)
    it.dependency.well = False
    dead_at = time.monotonic()
    opened_at = await until(it.all_refuse, "the opening")
    failures = [at for at, well in it.dependency.since(dead_at) if not well]
    # Calls that were under way when the last one heard of it.
    await asyncio.sleep(0.05)
    return opened_at - failures[BREAKERS.minimum_calls - 1], time.monotonic()


async def _heal(it: World, opened_at: float) -> float:
    """Let the dependency heal; return how long the fleet took to close after the probe was answered."""
    it.dependency.well = True
    closed_at = await until(it.all_admit, "the closing")
    good_at = next(at for at, well in it.dependency.since(opened_at) if well)
    return closed_at - good_at


async def run() -> None:
    """Print a JSON line for each case."""
    with kafka() as bootstrap:
        print(json.dumps(await fleet(bootstrap, ROUNDS)), flush=True)
        print(json.dumps(await stopped_controller(bootstrap)), flush=True)


async def _control(bootstrap: str, namespace: str) -> None:
    connection = KafkaSettings(bootstrap_servers=bootstrap)
    broker, catalogue = KafkaBroker(connection), Catalogue(namespace, 1)
    await ControlRole(broker, catalogue, ControlSettings(), connection, breakers=BREAKERS).run()


if __name__ == "__main__":
    asyncio.run(_control(*sys.argv[1:]))
