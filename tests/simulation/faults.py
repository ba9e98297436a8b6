"""What goes wrong while a world runs, and what makes it right again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from streams.broker.port import Message
from streams.broker.simulated import Process
from streams.errors import CodecError
from streams.records import decode
from streams.records.signals import Order
from tests.simulation.plan import Fault

if TYPE_CHECKING:
    from tests.simulation.world import World


class Faults:
    """Carries out the plan's faults, one after the other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._thawing: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Return when all are over, thawed and up again."""
        world = self._world
        loop = asyncio.get_running_loop()
        for fault in world.plan.faults:
            await asyncio.sleep(max(0.0, fault.at_s - loop.time()))
            self._happen(fault)
        await asyncio.sleep(max(0.0, world.plan.faults_end_s - loop.time()))
        if self._thawing:
            await asyncio.wait(self._thawing)
        for host in world.hosts:
            host.process.fuse = -1
        world.traps.clear()

    def _happen(self, fault: Fault) -> None:
        world = self._world
        host = world.hosts[fault.host % len(world.hosts)]
        world.note(f"fault: {fault.kind} {host.process} {fault.amount:.3f}")
        match fault.kind:
            case "kill":
                host.process.kill()
            case "fuse":
                host.process.kill_after(1 + int(fault.amount**3 * 2_000))
            case "trap":
                world.traps[host.process] = int(fault.amount * 6)
            case "freeze":
                host.process.freeze()
                process = host.process
                self._thawing.append(asyncio.create_task(self._thaw(process, 0.1 + fault.amount * 6.0)))
            case "outage":
                world.log.outage(0.05 + fault.amount**2 * 6.0)
            case "stop":
                host.stop()
            case "compact":
                world.keep_deltas()
                for kind in ("journal", "state-deltas", "tool-claims"):
                    # A tombstone of state that is missed does no harm: the filter tells that the store has more.
                    world.log.compact(world.catalogue.name(kind), drop_tombstones=kind == "state-deltas")
            case "copy result":
                self._copy("tool-results", fault.amount)
                self._copy("llm-results", fault.amount)
            case "copy request":
                self._copy("invocations", fault.amount)
            case "copy signal":
                self._copy("signals", fault.amount)
            case "misroute":
                self._copy("invocations", fault.amount, elsewhere=True)
            case "garbage":
                self._garbage(fault.amount)
            case "kill sink":
                self._sink(fault).kill()
            case "freeze sink":
                self._sink(fault).freeze()
                self._thawing.append(asyncio.create_task(self._thaw(self._sink(fault), 0.1 + fault.amount * 6.0)))
            case "store away":
                self._thawing.append(asyncio.create_task(self._leave(0.1 + fault.amount * 4.0)))
            case "fail over":
                assert world.plan.storage is not None
                world.store.fail_over(1 + int(fault.amount * 6), world.plan.storage.tombstone_after_s)
            case "trim":
                role = world.roles.get(host.name)
                if role is not None and host.process.running:
                    host.process.spawn(role.trim())

    def _sink(self, fault: Fault) -> Process:
        return self._world.sinks[int(fault.amount * 1_000) % len(self._world.sinks)].process

    async def _leave(self, for_s: float) -> None:
        self._world.store.away = True
        await asyncio.sleep(for_s)
        self._world.store.away = False

    async def _thaw(self, process: object, after_s: float) -> None:
        await asyncio.sleep(after_s)
        process.thaw()  # type: ignore[attr-defined]
        self._world.note(f"thawed: {process}")

    def _copy(self, kind: str, amount: float, *, elsewhere: bool = False) -> None:
        """Write a record again, as a producer does that was not told of its success."""
        world = self._world
        records = [r for r in world.log.records(world.catalogue.name(kind)) if _may_come_twice(r.value)]
        if not records:
            return
        record = records[int(amount * len(records))]
        number = (record.partition + elsewhere) % world.catalogue.partitions
        world.log.write([Message(record.topic, record.key, record.value, number, record.headers)])

    def _garbage(self, amount: float) -> None:
        world = self._world
        number = int(amount * world.catalogue.partitions)
        value = b"\xc3\x01" + bytes(8) + b"?" if amount < 0.5 else b"?"
        kind = "invocations" if amount < 0.8 else "signals"
        world.log.write([Message(world.catalogue.name(kind), b"alpha/a", value, number)])
        world.garbage += 1


def _may_come_twice(value: bytes | None) -> bool:
    """Operators' orders are given once, by a person: an old one that came again would undo a later one."""
    try:
        return not isinstance(decode(value or b""), Order)
    except CodecError:
        return False
