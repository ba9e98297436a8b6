"""Measures how far behind everything is: the one place that asks the broker, for the control plane and for people.

Truth is the broker's: end offsets, what the consumers' groups have committed, and timestamps of records. So it measures
partitions whose consumer is dead, paused or was never there as well as all others. Consumers leave a note beside their
positions of what they have read and not finished (`streams.records.load`).

    monitor = LagMonitor(broker, catalogue)
    report = await monitor.sample()         # again and again; rates need two samples
    for stage in report.stages:             # "invocations", "tool-calls", "llm-requests.fast", "state-deltas", ...
        for lag in stage.partitions:        # .unread .lag_s .backlog .arrival_per_s .drain_per_s .load.parked ...
            ...
    report.queues                           # agent name -> Queue(depth, oldest_ms): unread and in mailboxes

The last report of the control role is `ControlPlane.report`; its last signals are `ControlPlane.signals`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streams.backpressure.agent_queues import AgentQueues, merged
from streams.backpressure.lag import PartitionLag, PartitionMeter, Reading
from streams.backpressure.stages import INVOCATIONS, Stage, stages_of
from streams.broker.port import Broker, Committed, Partition
from streams.records.load import Queue, read_note
from streams.records.topics import Catalogue

METER_BUDGET_S = 0.25


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class StageReport:
    """Lag of one topic.

    Attributes:
        name: Kind and lane: `invocations`, `llm-requests.fast`.
        consumed: Somebody has committed a position once. Without, everything in it counts as unread.
        low_priority: Records of low priority that it has had since the monitor started.
    """

    kind: str
    name: str
    consumed: bool
    partitions: Sequence[PartitionLag]
    low_priority: int = 0

    @property
    def backlog(self) -> int:
        """Records unread, under way or waiting in mailboxes."""
        return sum(lag.backlog for lag in self.partitions)

    @property
    def lag_s(self) -> float:
        """Age of the oldest unread record in seconds."""
        return max((lag.lag_s for lag in self.partitions), default=0.0)


@dataclass(frozen=True, slots=True)
class LagReport:
    """How far behind everything is.

    Attributes:
        at_ms: When it was measured, in ms since the epoch.
        stages: Every topic in which work waits; those of invocations first.
        queues: Invocations that wait, unread or in a mailbox, by agent name.
        uncounted: Unread invocations that are not in `queues` yet; 0 means that it is exact.
    """

    at_ms: int
    stages: Sequence[StageReport]
    queues: Mapping[str, Queue]
    uncounted: int = 0

    def oldest_s(self, agent: str) -> float:
        """Return the age, in seconds, of the oldest invocation of *agent* that waits; 0 when none does."""
        queue = self.queues.get(agent)
        return max(0.0, (self.at_ms - queue.oldest_ms) / 1000) if queue is not None else 0.0


class LagMonitor:
    """Samples the lag of a namespace.

    Args:
        half_life_s: Rates are averages in which a sample weighs half after so long.
        least_records: Backlog of a topic from which its consumers count as busy.
        meter: Read the headers of invocations, for `LagReport.queues`.
        now_ms: Clock in ms since the epoch.

    Attributes:
        stages: What is sampled.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        *,
        half_life_s: float = 2.0,
        least_records: int = 100,
        meter: bool = True,
        now_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._broker = broker
        self.stages = stages_of(catalogue)
        self._partitions = tuple(p for stage in self.stages for p in stage.partitions)
        self._now_ms = now_ms
        busy = least_records / catalogue.partitions
        self._meters = {p: PartitionMeter(p.number, half_life_s=half_life_s, busy=busy) for p in self._partitions}
        self._stamps: dict[Partition, tuple[int, int]] = {}
        lanes = [p for stage in self.stages if stage.kind == INVOCATIONS for p in stage.partitions]
        self._queues = AgentQueues(broker.admin, lanes) if meter else None

    async def sample(self) -> LagReport:
        """Ask the broker, and return what it says.

        Raises:
            BrokerError: It does not answer, a topic is missing, or the log has lost a position.
        """
        committed = await self._committed()
        positions = await self._positions(committed)
        # The ends last: an end that is younger than the position can only overestimate the lag.
        ends = await self._broker.admin.end_offsets(self._partitions, isolation="read_uncommitted")
        at_s, now_ms = asyncio.get_running_loop().time(), self._now_ms()
        readings = {}
        for partition in self._partitions:
            load = read_note(committed[partition].note) if partition in committed else None
            readings[partition] = Reading(positions[partition], ends[partition], load)
        stamps = await self._oldest(readings)
        for partition, reading in readings.items():
            self._meters[partition].sample(reading._replace(oldest_ms=stamps.get(partition)), at_s)
        if self._queues is not None:
            await self._queues.follow(*self._lanes(positions, ends), budget_s=METER_BUDGET_S)
        return self._report(readings, frozenset(committed), now_ms)

    async def _committed(self) -> dict[Partition, Committed]:
        groups = dict.fromkeys(stage.group for stage in self.stages)
        asked = [
            self._broker.admin.committed(group, [p for s in self.stages if s.group == group for p in s.partitions])
            for group in groups
        ]
        return {partition: at for found in await asyncio.gather(*asked) for partition, at in found.items()}

    async def _positions(self, committed: Mapping[Partition, Committed]) -> dict[Partition, int]:
        missing = [partition for partition in self._partitions if partition not in committed]
        begin = await self._broker.admin.begin_offsets(missing) if missing else {}
        return {p: committed[p].offset if p in committed else begin[p] for p in self._partitions}

    async def _oldest(self, readings: Mapping[Partition, Reading]) -> dict[Partition, int]:
        """Return the timestamp of the oldest unread record; asks only where the position has moved."""
        behind = {p: reading.read for p, reading in readings.items() if reading.unread}
        self._stamps = {p: known for p, known in self._stamps.items() if behind.get(p) == known[0]}
        asked = {p: offset for p, offset in behind.items() if p not in self._stamps}
        found = await self._broker.admin.stamps_at(asked)
        self._stamps |= {p: (asked[p], stamp) for p, stamp in found.items()}
        return {p: stamp for p, (_, stamp) in self._stamps.items()}

    def _lanes(
        self, positions: Mapping[Partition, int], ends: Mapping[Partition, int]
    ) -> tuple[dict[Partition, int], dict[Partition, int]]:
        lanes = [p for stage in self.stages if stage.kind == INVOCATIONS for p in stage.partitions]
        return {p: positions[p] for p in lanes}, {p: ends[p] for p in lanes}

    def _report(self, readings: Mapping[Partition, Reading], consumed: frozenset[Partition], now_ms: int) -> LagReport:
        stages = tuple(self._stage(stage, consumed, now_ms) for stage in self.stages)
        loads = [reading.load for reading in readings.values() if reading.load is not None]
        waiting = [entry for load in loads for entry in load.queues.items()]
        if self._queues is None:
            return LagReport(now_ms, stages, merged(waiting))
        queues = merged([*self._queues.queues().items(), *waiting])
        return LagReport(now_ms, stages, queues, self._queues.uncounted)

    def _stage(self, stage: Stage, consumed: frozenset[Partition], now_ms: int) -> StageReport:
        return StageReport(
            stage.kind,
            stage.name,
            not consumed.isdisjoint(stage.partitions),
            tuple(self._meters[partition].lag(now_ms) for partition in stage.partitions),
            self._queues.low_priority(stage.topic) if self._queues is not None else 0,
        )
