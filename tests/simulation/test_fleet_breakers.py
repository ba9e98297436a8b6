"""Breakers of a fleet on the simulated log: callers, a dependency that fails and heals, and controllers that do too."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from streams.breakers import BreakerSettings, BreakerView, Guard, Refusal
from streams.breakers.feed import breakers_table, partitions_of, report_outcomes
from streams.breakers.operators import give_order
from streams.broker.port import TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.table import read_to_end
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.errors import ControlSilent
from streams.records import decode_as
from streams.records.control import BreakerState
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run
from tests.simulation.controllers import host

CATALOGUE = Catalogue("ns", 1)
BREAKERS = BreakerSettings(window_calls=20, minimum_calls=10, open_s=2, open_ceiling_s=8, probe_lease_s=1, grace_s=2)
CONTROL = ControlSettings()
CALL_EVERY_S = 0.05


@dataclass
class Dependency:
    """Counts for itself what reaches it."""

    well: bool = True
    takes_s: float = 0.02
    calls: list[float] = field(default_factory=list)

    async def call(self) -> bool:
        self.calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes_s)
        return self.well


class Fleet:
    def __init__(self, seed: int, callers: int = 3, **breakers: Any) -> None:
        self.breakers = BREAKERS.model_copy(update=breakers)
        self.log = SimulatedLog(Random(seed))
        self.broker = SimulatedBroker(self.log, "test")
        self.log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in CATALOGUE.topics()])
        self.dependency = Dependency()
        self.random = Random(seed)
        self.answers: list[tuple[float, bool]] = []
        self.guards = [self.guard(number) for number in range(callers)]
        self.processes = [Process(guard.reporter) for guard in self.guards]
        self.tasks: list[asyncio.Task[Any]] = []

    def guard(self, number: int) -> Guard:
        policy = self.breakers.policy_of("tool:crm")
        return Guard("tool:crm", policy, f"worker-{number}", self.random.random, longest_call_s=1.0)

    async def start(self) -> None:
        for process, guard in zip(self.processes, self.guards, strict=True):
            self.tasks.append(process.spawn(self.caller(process, guard)))

    def controller(self, name: str) -> Process:
        process = Process(name)
        broker = SimulatedBroker(self.log, process)
        plane = ControlPlane(
            broker, CATALOGUE, CONTROL, breakers=self.breakers, now_ms=self.log.now_ms, rng=Random(name)
        )
        self.tasks.append(process.spawn(host(plane, broker, CATALOGUE, CONTROL)))
        return process

    async def caller(self, process: Process, guard: Guard) -> None:
        broker, now_ms = SimulatedBroker(self.log, process), self.log.now_ms
        async with (
            breakers_table(broker, CATALOGUE, guard.apply, random=self.random),
            broker.producer() as producer,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(report_outcomes(producer, CATALOGUE, guard.drain, every_s=0.25, now_ms=now_ms))
            while True:
                admitted = guard.admit(now_ms())
                self.answers.append((asyncio.get_running_loop().time(), isinstance(admitted, Refusal)))
                if not isinstance(admitted, Refusal):
                    ok = await self.dependency.call()
                    guard.record(admitted, not ok, self.dependency.takes_s, now_ms(), "" if ok else "OSError")
                await asyncio.sleep(CALL_EVERY_S * (0.5 + self.random.random()))

    async def history(self) -> list[BreakerState]:
        found = []
        async for batch in read_to_end(self.broker, partitions_of(CATALOGUE, "breakers")):
            found += [decode_as(BreakerState, record.value or b"") for record in batch]
        return found

    async def until(self, reached: Callable[[], bool], within_s: float) -> float:
        """Return the seconds after which *reached*."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not reached():
            assert loop.time() - began < within_s, "did not happen in time"
            await asyncio.sleep(0.01)
        return loop.time() - began

    def all_are(self, *phases: str) -> Callable[[], bool]:
        return lambda: all(
            guard.phase in phases for guard, process in zip(self.guards, self.processes, strict=True) if process.running
        )

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks, timeout=30)


def simulated(scenario: Callable[[Fleet], Coroutine[Any, Any, None]], seed: int, **options: Any) -> None:
    async def whole() -> None:
        fleet = Fleet(seed, **options)
        try:
            await scenario(fleet)
        finally:
            await fleet.end()

    run(whole(), seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_the_fleet_opens_within_a_second_and_the_dependency_counts_one_probe_for_each_lease(seed):
    async def scenario(fleet: Fleet) -> None:
        fleet.controller("control")
        await fleet.start()
        await asyncio.sleep(3)
        fleet.dependency.well = False
        await fleet.until(lambda: any(guard.phase == "open" for guard in fleet.guards), 3)
        assert await fleet.until(fleet.all_are("open"), 3) < 1
        await asyncio.sleep(0.1)  # calls that were under way
        before = len(fleet.dependency.calls)
        await asyncio.sleep(20)
        leases = [s for s in await fleet.history() if s.phase == "half-open" and s.probe_holder]
        assert len(fleet.dependency.calls) - before == len(leases) >= 3
        fleet.dependency.well = True
        await fleet.until(fleet.all_are("closed"), 12)
        states = await fleet.history()
        assert [(s.epoch, s.number) for s in states] == sorted({(s.epoch, s.number) for s in states})

    simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_a_silent_control_plane_degrades_to_local_decisions_and_heals_without_flapping(seed):
    async def scenario(fleet: Fleet) -> None:
        controller = fleet.controller("control")
        await fleet.start()
        await asyncio.sleep(2)
        fleet.dependency.well = False
        await fleet.until(fleet.all_are("open"), 5)
        controller.freeze()
        await fleet.until(lambda: all(guard.state.reason.startswith("the probe failed") for guard in fleet.guards), 60)
        fleet.dependency.well = True
        await fleet.until(fleet.all_are("closed"), 30)
        closed_at = asyncio.get_running_loop().time()
        await asyncio.sleep(10)
        controller.thaw()
        await asyncio.sleep(20)
        late = [at for at, refused in fleet.answers if refused and at > closed_at]
        assert late == [], "callers were refused again when the control plane came back"
        last = (await fleet.history())[-1]
        assert (last.phase, last.reason) == ("closed", "its callers closed it while the control plane was silent")

    simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_still_dead_stays_open_when_the_control_plane_comes_back(seed):
    async def scenario(fleet: Fleet) -> None:
        controller = fleet.controller("control")
        await fleet.start()
        await asyncio.sleep(2)
        fleet.dependency.well = False
        await fleet.until(fleet.all_are("open"), 5)
        controller.kill()
        await asyncio.sleep(40)
        fleet.controller("successor")
        before = len(fleet.dependency.calls)
        await asyncio.sleep(30)
        # Probes only: of the fleet at most one in two seconds, and while it listens those of three callers alone.
        assert len(fleet.dependency.calls) - before <= 15 + 3 * 3
        assert all(guard.phase in {"open", "half-open"} for guard in fleet.guards)
        states = await fleet.history()
        assert "closed" not in [state.phase for state in states[1:]]
        assert states[-1].epoch == 2

    simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_a_holder_that_dies_loses_the_lease(seed):
    async def scenario(fleet: Fleet) -> None:
        fleet.controller("control")
        await fleet.start()
        await asyncio.sleep(2)
        fleet.dependency.well = False
        await fleet.until(fleet.all_are("open"), 5)
        fleet.dependency.well, fleet.dependency.takes_s = True, 0.9

        def probing() -> bool:
            return bool(len(fleet.dependency.calls) > before)

        await asyncio.sleep(0.1)
        before = len(fleet.dependency.calls)
        await fleet.until(probing, 10)
        half_open = [s for s in await fleet.history() if s.phase == "half-open"]
        holder = next(s.probe_holder for s in reversed(half_open) if s.probe_holder)
        fleet.processes[[guard.reporter for guard in fleet.guards].index(holder)].kill()
        # What is left of a probe of one second, the time for its report, and the next lease with its probe.
        await fleet.until(fleet.all_are("closed"), 8)
        holders = [s.probe_holder for s in await fleet.history() if s.probe_holder]
        assert holders[-1] != holder

    simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_a_lease_that_finds_no_call_moves_on(seed):
    async def scenario(fleet: Fleet) -> None:
        fleet.controller("control")
        await fleet.start()
        ghost = BreakerView()

        async def ask_and_never_call() -> None:
            async with (
                breakers_table(fleet.broker, CATALOGUE, ghost.apply, random=fleet.random),
                fleet.broker.producer() as producer,
                asyncio.TaskGroup() as tasks,
            ):
                report = report_outcomes(producer, CATALOGUE, ghost.drain, every_s=0.03, now_ms=fleet.log.now_ms)
                tasks.create_task(report)
                while True:
                    await asyncio.sleep(0.02)
                    ghost.admit("tool:crm", "ghost", fleet.log.now_ms())

        fleet.tasks.append(asyncio.ensure_future(ask_and_never_call()))
        await asyncio.sleep(2)
        fleet.dependency.well = False
        await fleet.until(fleet.all_are("open"), 5)

        def ghost_has_it() -> bool:
            state = ghost.get("tool:crm")
            return state is not None and state.probe_holder == "ghost"

        await fleet.until(ghost_has_it, 120)
        fleet.dependency.well = True
        await fleet.until(fleet.all_are("closed"), 30)
        leases = [(s.probe_holder, s.reason) for s in await fleet.history() if s.probe_holder]
        assert leases[-1][0] != "ghost"
        assert leases[-1][1] == "ghost made no call within the lease"

    simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_orders_reach_everybody_with_who_and_why_and_a_restart_keeps_them(seed):
    async def scenario(fleet: Fleet) -> None:
        controller = fleet.controller("control")
        await fleet.start()
        await asyncio.sleep(1)
        told = await order(fleet, "open", "incident 7")
        assert (told.phase, told.changed_by, told.reason) == ("forced-open", "ana", "incident 7")
        assert await fleet.until(fleet.all_are("forced-open"), 2) < 1
        controller.kill()
        fleet.controller("successor")
        before = len(fleet.dependency.calls)
        await asyncio.sleep(30)
        assert fleet.all_are("forced-open")()
        assert len(fleet.dependency.calls) - before <= 3
        told = await order(fleet, "reset", "over")
        assert (told.phase, told.epoch, told.openings) == ("closed", 2, 0)
        await fleet.until(fleet.all_are("closed"), 2)
        # The orders that the successor reads again, because nobody had committed them, changed nothing.
        phases = [state.phase for state in await fleet.history()]
        assert phases == ["forced-open", "closed"]

    simulated(scenario, seed)


@pytest.mark.parametrize("seed", range(10))
def test_an_order_that_was_given_while_the_control_plane_was_away_is_followed_later(seed):
    async def scenario(fleet: Fleet) -> None:
        with pytest.raises(ControlSilent, match="did not follow the order on tool:crm within 3 s"):
            await order(fleet, "metrics-only", "trying thresholds", timeout_s=3)
        fleet.controller("control")
        await fleet.start()
        await fleet.until(fleet.all_are("metrics-only"), 10)
        fleet.dependency.well = False
        await asyncio.sleep(10)
        assert not any(refused for _, refused in fleet.answers)
        assert [state.phase for state in await fleet.history()] == ["metrics-only"]

    simulated(scenario, seed)


async def order(fleet: Fleet, action: Any, reason: str, timeout_s: float = 15.0) -> BreakerState:
    return await give_order(
        fleet.broker, CATALOGUE, action, "tool:crm",
        by="ana", reason=reason, now_ms=fleet.log.now_ms(), timeout_s=timeout_s, order_id=f"{action}-{reason}",
    )  # fmt: skip
