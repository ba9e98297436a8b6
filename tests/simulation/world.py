"""One world: a simulated log, the roles on it, clients that submit what the plan says, faults, and the end.

When the faults are over everything is left alone until nothing is open any more; then `oracle` looks at what is there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random, random
from typing import Any
from unittest.mock import patch
from zlib import crc32

from streams.app import App
from streams.broker import table
from streams.broker.port import TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.simulated.timing import Timing
from streams.client import shared
from streams.llm.chat import ChatRequest
from streams.llm.function import FunctionProvider
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.memory.role import MemoryRole
from streams.memory.settings import MemorySettings
from streams.records.invocations import Result
from streams.records.state import StateDelta
from streams.records.topics import SHARD_INPUTS, Catalogue
from streams.shards.effects import ShardLimits
from streams.shards.role import ShardRole
from streams.shards.settings import ShardSettings
from streams.tools.role import ToolRole
from streams.tools.settings import ToolSettings
from tests.simulation import application
from tests.simulation.application import Outside, deploy
from tests.simulation.callers import Callers
from tests.simulation.faults import Faults
from tests.simulation.hosts import Host, TrappedBroker
from tests.simulation.plan import Plan
from tests.simulation.sharing import Seen, shared_deltas_of
from tests.simulation.store import Postgres

DEDUP_S = 7_200.0
QUIET_LIMIT_S = 400.0
LLM = LlmSettings(pools={"fast": PoolSettings(model="m")}, breaker_report_s=5.0, drain_s=0.5)


class SmallShards(ShardSettings):
    """Settings with bounds so small that chunks are closed and handlers go cold."""

    chunk_bytes: int = 8_192

    def limits(self, max_payload_bytes: int) -> ShardLimits:
        """Return the engine's bounds."""
        return ShardLimits(
            max_working=self.max_working, max_mailbox=self.max_mailbox, max_hot=self.max_hot,
            chunk_bytes=self.chunk_bytes, dedup_s=DEDUP_S, defer_s=0.5, max_payload_bytes=max_payload_bytes,
        )  # fmt: skip


class Stuck(AssertionError):
    """Something is still open long after the faults are over."""


@dataclass
class World:
    """See the module.

    Attributes:
        problems: What happened that must never happen.
        answers: What clients were told, by submission index.
        garbage: Records that were written to be set aside.
        over: What still happens is of no interest.
        shared_begun: What clients have begun to do to shared records, with its key until they know what came of it.
        shared_seen: What they saw; see `sharing`.
    """

    seed: int
    plan: Plan
    trace: bool = False
    problems: list[str] = field(default_factory=list)
    answers: dict[int, Result] = field(default_factory=dict)
    garbage: int = 0
    over: bool = False
    shared_begun: dict[str, str] = field(default_factory=dict)
    shared_seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(f"world {self.seed}")
        self.outside = Outside(Random(f"outside {self.seed}"), flaky=self.plan.flaky)
        timing = Timing(
            slow_every=self.plan.slow_every, session_timeout_s=1.5, heartbeat_s=0.3, rebalance_timeout_s=4.0,
            request_timeout_s=3.0,
        )  # fmt: skip
        self.log = SimulatedLog(Random(f"log {self.seed}"), timing=timing)
        self.catalogue = Catalogue("sim", self.plan.partitions, lanes={"llm-requests": ("fast",)})
        self.log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in self.catalogue.topics()])
        self.roles: dict[str, ShardRole] = {}
        self.traps: dict[Process, int] = {}
        self.settings = SmallShards(
            max_hot=self.plan.max_hot, chunk_bytes=self.plan.chunk_bytes, max_mailbox=self.plan.max_mailbox,
            max_working=self.plan.max_working, bite_records=self.plan.bite, **self._storage(),
        )  # fmt: skip
        self.store = Postgres(Random(f"store {self.seed}"))
        self.newest = list(self.plan.newest)
        self.hosts = [self._shard_host(n) for n in range(self.plan.shards)]
        self.hosts += [self._host(f"tools-{n}", self._tools, n == 0) for n in range(self.plan.tools)]
        self.hosts.append(self._host("llm", self._llm, True))
        self.callers = Callers(self)
        self.hosts.append(self._host("clients", self.callers.run, False))
        sinks = self.plan.storage.sinks if self.plan.storage else 0
        self.sinks = [self._host(f"memory-{n}", self._memory, n == 0) for n in range(sinks)]
        self.hosts += self.sinks
        self._tasks: list[asyncio.Task[None]] = []
        self._deltas: dict[tuple[int, int], StateDelta] = {}

    def _storage(self) -> dict[str, Any]:
        storage = self.plan.storage
        if storage is None:
            return {}
        return {
            "cache_bytes": storage.cache_bytes,
            "tombstone_after_s": storage.tombstone_after_s,
            "sweep_interval_s": storage.sweep_interval_s,
            "flush_check_s": 0.1,
        }

    # -- roles ---------------------------------------------------------------------------------------------------------

    def _host(self, name: str, start: Any, static: bool) -> Host:
        instance = name if static else None
        return Host(name, partial(start, instance), self.random, self.problems)

    def _shard_host(self, number: int) -> Host:
        instance = f"shards-{number}" if self.plan.static[number] else None
        return Host(f"shards-{number}", partial(self._shards, instance, number), self.random, self.problems)

    async def _shards(self, instance: str | None, number: int, process: Process) -> None:
        app: App = deploy(newest=self.newest[number])
        role = ShardRole(
            app,
            TrappedBroker(self.log, process, self.traps),
            self.catalogue,
            self.settings,
            instance_id=instance,
            now=self.now,
            clock=asyncio.get_running_loop().time,
            die=lambda reason: self._die(process, reason),
            watch=False,
            sources=(self.store,) if self.plan.storage else (),
            luck=Random(self.random.random()).random if self.plan.storage else random,
        )
        self.roles[f"shards-{number}"] = role
        await role.run()

    async def _tools(self, instance: str | None, process: Process) -> None:
        role = ToolRole(
            deploy(newest=True),
            TrappedBroker(self.log, process, self.traps),
            self.catalogue,
            ToolSettings(breaker_report_s=5.0, max_open=self.plan.look_ahead, max_parked=self.plan.parked),
            instance_id=instance,
            now=self.now,
            clock=asyncio.get_running_loop().time,
            random=Random(self.random.random()),
        )
        await role.run()

    async def _memory(self, instance: str | None, process: Process) -> None:
        assert self.plan.storage is not None
        settings = MemorySettings(
            batch_rows=self.plan.storage.batch_rows, flush_interval_s=0.05, retry_ceiling_s=1.0,
            group_instance_id=instance,
        )  # fmt: skip
        role = MemoryRole(
            SimulatedBroker(self.log, process), self.catalogue, settings,
            stores=(self.store,), now_ms=self.log.now_ms, rng=Random(self.random.random()),
        )  # fmt: skip
        await role.run()

    async def _llm(self, instance: str | None, process: Process) -> None:
        draw = Random(self.random.random())

        async def answer(_: ChatRequest) -> str:
            await asyncio.sleep(draw.random() * 0.2)
            return "well"

        role = LlmRole(
            deploy(newest=True),
            SimulatedBroker(self.log, process),
            self.catalogue,
            LLM,
            instance_id=instance,
            providers={"fast": FunctionProvider(answer)},
            now=self.now,
            clock=asyncio.get_running_loop().time,
            rng=draw,
        )
        await role.run()

    def _die(self, process: Process, reason: str) -> None:
        self.note(f"{process.name} ends itself: {reason}")
        process.kill()

    # -- the run -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let it all happen; returns when it is quiet.

        Raises:
            Stuck: It does not become quiet.
        """
        for host in self.hosts:
            self._tasks.append(asyncio.create_task(host.run(), name=f"host {host.name}"))
        self._tasks.append(asyncio.create_task(self.callers.operate(), name="operators"))
        await Faults(self).run()
        for number, newest in enumerate(self.newest):
            if not newest:
                self.newest[number] = True
                self.hosts[number].process.kill()
        await self._become_quiet()

    async def _become_quiet(self) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() + QUIET_LIMIT_S
        quiet = 0
        while quiet < 2:
            await asyncio.sleep(0.7)
            open_things = self._open_things()
            quiet = 0 if open_things else quiet + 1
            if loop.time() > limit:
                raise Stuck(f"{QUIET_LIMIT_S:.0f} s after the last fault: {'; '.join(open_things[:8])}")

    def _open_things(self) -> list[str]:
        found = self.callers.waiting()
        owners: dict[int, int] = {}
        for role in self.roles.values():
            for number, processor in role.processors.items():
                if not processor.ready.is_set() or processor.stuck:
                    continue
                owners[number] = owners.get(number, 0) + 1
                engine = processor.engine
                found += [f"{live.id} is {live.phase}: {live.reason}" for live in engine.live.values()]
                found += [f"{request} waits for state from the store" for request in engine.cold._requests.values()]
                found += self._unread(number, processor.durable)
                if not processor.settled.is_set():
                    found.append(f"shard {number} has a transaction under way")
        found += [f"shard {n} has no owner" for n in range(self.catalogue.partitions) if not owners.get(n)]
        return found

    def _unread(self, number: int, durable: dict[str, int]) -> list[str]:
        unread = []
        for kind in SHARD_INPUTS:
            log = self.log.partitions(self.catalogue.name(kind))[number]
            left = log.read(max(durable.get(kind, 0), log.begin), 1, "read_committed")[0]
            unread += [f"{kind}[{number}]@{record.offset} is unread" for record in left]
        return unread

    def end(self) -> None:
        """End everything where it stands."""
        self.over = True
        for host in self.hosts:
            host.closing = True
            host.process.kill()
        for task in self._tasks:
            task.cancel()

    # -- small things --------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.log.now_ms() / 1000

    def note(self, text: str) -> None:
        """Write a line of the trace."""
        if self.trace:
            print(f"{asyncio.get_running_loop().time():10.4f}  {text}")

    def keep_deltas(self) -> None:
        """Remember what was written to shared records, before the log forgets it."""
        for record in self.log.records(self.catalogue.name("state-deltas")):
            for delta in shared_deltas_of([record]):
                self._deltas[record.partition, record.offset] = delta

    def shared_deltas(self) -> list[StateDelta]:
        """Return all writes to shared records, those of one record in their order.

        One that a shard has written again, since the store had lost it, is the same write.
        """
        self.keep_deltas()
        found, versions = [], dict[str, dict[str, int]]()
        for place in sorted(self._deltas):
            delta = self._deltas[place]
            if versions.get(delta.owner) != delta.vector:
                found.append(delta)
            versions[delta.owner] = delta.vector
        return found

    def fingerprint(self) -> int:
        """Return a number that is the same for the same history."""
        value = 0
        for kind in ("results", "state-deltas", "journal", "dead-letters"):
            for record in self.log.records(self.catalogue.name(kind)):
                value = crc32(record.value or b"", crc32(record.key or b"", value))
        return value


@contextmanager
def only_seeded(seed: int, outside: Outside) -> Iterator[None]:
    """Let what draws for itself draw from the seed: IDs of clients, jitter of retries, clocks, names of workers."""
    draw = Random(f"ids {seed}")
    before, application.outside = application.outside, outside
    try:
        with (
            patch.object(uuid, "uuid4", lambda: uuid.UUID(int=draw.getrandbits(128), version=4)),
            patch.object(table, "Random", lambda: Random(draw.random())),
            patch.object(shared, "random", draw),
            patch.object(time, "time", lambda: 1_767_225_600.0),
            patch.object(os, "getpid", lambda: 1),
            patch.object(socket, "gethostname", lambda: "host"),
        ):
            yield
    finally:
        application.outside = before
