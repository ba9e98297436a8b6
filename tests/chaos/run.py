"""One run: servers, processes, faults, and the verdict."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from streams.broker.connect import open_broker
from streams.broker.embedded import EmbeddedKafka
from streams.broker.topics import create_namespace
from streams.demo.world import demo_world
from streams.errors import StreamsError
from streams.records.ids import invocation_id
from streams.settings import load_settings
from tests.chaos.app import EFFECTS_VARIABLE, VERSIONS_VARIABLE, app
from tests.chaos.diary import Diary
from tests.chaos.evidence import gather
from tests.chaos.faults import Fault, faults
from tests.chaos.plan import idempotency_key, order
from tests.chaos.processes import Fleet, Kept
from tests.chaos.verifier import Verdict, judge
from tests.chaos.watch import Watch

RESUME_WITHIN_S = 60.0
FINISH_WITHIN_S = 180.0
APP = "tests.chaos.app:app"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes.

    Attributes:
        workers: Orders that the client keeps open.
        pause_s: Of each of them between two orders.
    """

    kills: int
    seed: int
    folder: Path
    session_timeout_s: float = 6.0
    workers: int = 24
    pause_s: float = 0.2


@dataclass(slots=True)
class Tally:
    """What was done to the processes, and how long they took.

    Attributes:
        restarted_s: From kill -9 of a shard's process to the first new result of every shard; started again at once.
        taken_over_s: Likewise, where another process took over.
        others_s: From kill -9 of another role to the last shard's first result of an invocation that began after it.
        thawed_s: From SIGSTOP on; includes the session timeout.
        broker_s: From the broker's end on; includes its own start.
        stuck: Faults after which nothing more came.
    """

    kills: int = 0
    zombies: int = 0
    broker_restarts: int = 0
    rolls: int = 0
    roll_stop_max_s: float = 0.0
    restarted_s: list[float] = field(default_factory=list)
    taken_over_s: list[float] = field(default_factory=list)
    others_s: list[float] = field(default_factory=list)
    thawed_s: list[float] = field(default_factory=list)
    broker_s: list[float] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is reported."""

    figures: Mapping[str, Any]
    found: list[str]
    passed: bool


async def run(options: Options, report: Report) -> Outcome:
    """Torment the application and judge what is left."""
    options.folder.mkdir(parents=True, exist_ok=True)
    kafka = EmbeddedKafka(options.folder / "kafka")
    await asyncio.to_thread(kafka.start)
    try:
        with demo_world(seed=options.seed), _environment(options, kafka.bootstrap):
            return await _run(options, kafka, report)
    finally:
        await asyncio.to_thread(kafka.stop, at_once=True)


async def _run(options: Options, kafka: EmbeddedKafka, report: Report) -> Outcome:
    settings = load_settings()
    catalogue = settings.catalogue(app.name, dict(app.lanes()))
    broker = open_broker(settings.kafka_for_payloads())
    try:
        await broker.connect()
        await create_namespace(broker.admin, catalogue, settings.replication)
        watch = Watch(broker, catalogue)
        following = asyncio.create_task(watch.follow())
        began = time.monotonic()
        async with Fleet(_processes(options)) as fleet:
            tally = await Torment(options, kafka, fleet, watch, report).all()
            report("Letting the client finish.")
            await _finish(options, fleet, watch, report)
        following.cancel()
        elapsed_s = time.monotonic() - began
        report("Reading the topics.")
        evidence = await gather(broker, catalogue, options.folder / "effects")
    finally:
        await broker.close()
    verdict = judge(evidence, _accepted(options), options.seed)
    figures = {**_figures(tally, verdict), "seed": options.seed, "seconds": round(elapsed_s, 1), "ends": fleet.ends()}
    return Outcome(figures, [*tally.stuck, *verdict.found], verdict.passed and not tally.stuck)


class Torment:
    """Does to the processes what `faults` says."""

    def __init__(self, options: Options, kafka: EmbeddedKafka, fleet: Fleet, watch: Watch, report: Report) -> None:
        self.tally = Tally()
        self._quiet = True  # everything had recovered before the fault under way: its time is its own
        self._options = options
        self._kafka = kafka
        self._fleet = fleet
        self._watch = watch
        self._report = report

    async def all(self) -> Tally:
        """Wait for the first results, then let everything happen."""
        if await self._watch.resumed(time.time(), within_s=RESUME_WITHIN_S) is None:
            raise StreamsError(f"not every shard had a result within {RESUME_WITHIN_S:.0f} s; see the logs")
        planned = faults(self._options.kills, self._options.seed, session_timeout_s=self._options.session_timeout_s)
        for fault in planned:
            silent = await self._do(fault)
            said = "not waited for" if not fault.wait else "stuck" if silent is None else f"{silent:.2f} s"
            self._report(f"{fault.what} {fault.role}{f'-{fault.index}' if fault.role else ''}: {said}")
            if fault.wait and silent is None:
                self.tally.stuck.append(f"stuck: a shard had no result for {RESUME_WITHIN_S:.0f} s after {fault}")
                break
            self._quiet = fault.wait
            await asyncio.sleep(0.5)
        return self.tally

    async def _do(self, fault: Fault) -> float | None:
        match fault.what:
            case "kill":
                return await self._kill(fault)
            case "freeze":
                return await self._freeze(fault)
            case "broker":
                return await self._restart_broker()
            case "roll":
                return await self._roll()

    def _victim(self, fault: Fault) -> Kept:
        candidates = self._fleet.of(fault.role)
        return candidates[fault.index % len(candidates)]

    async def _kill(self, fault: Fault) -> float | None:
        victim = self._victim(fault)
        while not victim.kill(down_s=fault.down_s):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        began = time.time()
        self.tally.kills += 1
        if not fault.wait:
            return None
        all_roles = await self._watch.resumed(began, within_s=RESUME_WITHIN_S, anew=True)
        silent = self._watch.silence_s(began)
        if silent is None or all_roles is None:
            return None
        if not self._quiet:
            return silent
        if fault.role != "shards":
            self.tally.others_s.append(all_roles)
            return all_roles
        taken_over = fault.down_s > self._options.session_timeout_s
        (self.tally.taken_over_s if taken_over else self.tally.restarted_s).append(silent)
        return silent

    async def _freeze(self, fault: Fault) -> float | None:
        victim = self._victim(fault)
        while not victim.freeze():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        began = time.time()
        await asyncio.sleep(self._options.session_timeout_s + 2.0)
        victim.thaw()
        self.tally.zombies += 1
        if await self._watch.resumed(time.time(), within_s=RESUME_WITHIN_S, anew=True) is None:
            return None
        silent = self._watch.silence_s(began)
        self.tally.thawed_s += [] if silent is None else [silent]
        return silent

    async def _restart_broker(self) -> float | None:
        began = time.time()
        await asyncio.to_thread(self._kafka.stop, at_once=True)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(self._kafka.start)
        self.tally.broker_restarts += 1
        silent = await self._watch.resumed(began, within_s=RESUME_WITHIN_S, anew=True)
        if silent is not None:
            self.tally.broker_s.append(silent)
        return silent

    async def _roll(self) -> float | None:
        """A rolling deploy: each process in turn gets both versions of the handler."""
        for process in self._fleet.processes:
            if process.role != "client":
                took_s = await process.roll({VERSIONS_VARIABLE: "1,2"})
                self._report(f"roll {process.name}: it ended after {took_s:.2f} s")
                self.tally.roll_stop_max_s = max(self.tally.roll_stop_max_s, took_s)
                await asyncio.sleep(1.0)
        self.tally.rolls += 1
        return await self._watch.resumed(time.time(), within_s=RESUME_WITHIN_S, anew=True)


async def _finish(options: Options, fleet: Fleet, watch: Watch, report: Report) -> None:
    (options.folder / "stop").touch()
    deadline = time.monotonic() + FINISH_WITHIN_S
    client = fleet.of("client")[0]
    while time.monotonic() < deadline:
        if client.finished.is_set() and _accepted(options) <= watch.answered:
            break
        await asyncio.sleep(0.2)
    if missing := _accepted(options) - watch.answered:
        report(f"{len(missing)} orders have no result after {FINISH_WITHIN_S:.0f} s, such as {min(missing)}")


def _accepted(options: Options) -> set[str]:
    diary = Diary(options.folder / "diary")
    numbers = diary.of("accepted")
    diary.close()
    return {invocation_id("shop", order(options.seed, number).customer, idempotency_key(number)) for number in numbers}


def _processes(options: Options) -> list[Kept]:
    logs = options.folder / "logs"
    logs.mkdir(exist_ok=True)

    def role(name: str, count: int) -> Iterator[Kept]:
        command = [sys.executable, "-m", "streams", "run", APP, "--role", name, "--parent", str(os.getpid())]
        for number in range(count):
            called = f"{name}-{number}"
            yield Kept(called, name, command, {"STREAMS_INSTANCE_ID": called, VERSIONS_VARIABLE: "1"}, logs)

    told = {
        "--seed": options.seed,
        "--workers": options.workers,
        "--pause-s": options.pause_s,
        "--diary": options.folder / "diary",
        "--stop": options.folder / "stop",
    }
    command = [sys.executable, "-m", "tests.chaos.client", *(str(word) for pair in told.items() for word in pair)]
    return [*role("shards", 2), *role("tools", 2), *role("llm", 1), Kept("client-0", "client", command, {}, logs)]


@contextmanager
def _environment(options: Options, bootstrap: str) -> Iterator[None]:
    told = {
        "STREAMS_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "STREAMS_KAFKA__SESSION_TIMEOUT_S": f"{options.session_timeout_s:g}",
        "STREAMS_NAMESPACE": "chaos",
        EFFECTS_VARIABLE: str(options.folder / "effects"),
    }
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]


def _figures(tally: Tally, verdict: Verdict) -> dict[str, Any]:
    shards = [*tally.restarted_s, *tally.taken_over_s]
    counted = {name: value for name, value in asdict(verdict).items() if name != "found"}
    return {
        "kills": tally.kills,
        **counted,
        "resume_p50_s": _rounded(median(shards)) if shards else None,
        "resume_max_s": _largest(shards),
        "restarted_max_s": _largest(tally.restarted_s),
        "taken_over_max_s": _largest(tally.taken_over_s),
        "others_max_s": _largest(tally.others_s),
        "zombies": tally.zombies,
        "zombie_max_s": _largest(tally.thawed_s),
        "broker_restarts": tally.broker_restarts,
        "broker_max_s": _largest(tally.broker_s),
        "rolls": tally.rolls,
        "roll_stop_max_s": _rounded(tally.roll_stop_max_s),
        "stuck": len(tally.stuck),
    }


def _largest(values: list[float]) -> float | None:
    return _rounded(max(values)) if values else None


def _rounded(value: float) -> float:
    return round(value, 2)
