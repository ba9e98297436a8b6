"""A lane in a model of time: arrivals and consumers as functions, what is measured and decided of it as in production.

Each sample shows what the broker would: positions and open work as the consumer reported them a moment ago, ends as of
now. Producers may obey the last signal or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from streams.backpressure import BackpressurePolicy, Lane, PartitionMeter, Reading, StageLag
from streams.records.control import BackpressureSignal
from streams.records.load import Load

SAMPLE_S = 0.5
STEP_S = 0.05
OPEN = 4
"""Records that a consumer that is up works on at a time."""

PerS = Callable[[float], float]


@dataclass
class Partition:
    """One partition: what arrives, and what its consumer can do, in records per second at a time; dead at 0."""

    arrival: PerS
    capacity: PerS
    end: float = 0.0
    finished: float = 0.0
    load: Load = field(default_factory=lambda: Load(0))
    position: int = 0

    def step(self, now_s: float, admitted: float, random: Random) -> None:
        self.end += admitted * self.arrival(now_s) * STEP_S * random.uniform(0.5, 1.5)
        can = self.capacity(now_s) * STEP_S * random.uniform(0.5, 1.5)
        self.finished = min(self.end, self.finished + can)

    @property
    def backlog(self) -> float:
        return self.end - self.finished

    def report(self, now_s: float) -> None:
        if self.capacity(now_s) > 0:
            working = min(OPEN, int(self.end) - int(self.finished))
            self.position = int(self.finished) + working
            self.load = Load(int(now_s * 1000), working)


@dataclass
class Played:
    """What was decided, and what was true at that time.

    Attributes:
        signals: Each with the time it was decided at.
        backlogs: Of all partitions, at each sample: time, and records by partition.
    """

    signals: list[tuple[float, BackpressureSignal]] = field(default_factory=list)
    backlogs: list[tuple[float, list[float]]] = field(default_factory=list)

    def levels(self) -> list[tuple[float, str]]:
        """Changes of level, with their times."""
        found = [(0.0, "open")]
        for at_s, signal in self.signals:
            if signal.level != found[-1][1]:
                found.append((at_s, signal.level))
        return found[1:]

    def closings(self) -> list[tuple[float, BackpressureSignal]]:
        """The signals with which the lane was closed."""
        times = {at_s for at_s, level in self.levels() if level == "closed"}
        return [(at_s, signal) for at_s, signal in self.signals if at_s in times]

    def reached_s(self, after_s: float, target: Sequence[float]) -> float:
        """When every partition was at its target, after a time."""
        return next(
            at_s
            for at_s, backlogs in self.backlogs
            if at_s > after_s and all(b <= t for b, t in zip(backlogs, target, strict=True))
        )


def play(
    partitions: Sequence[Partition], policy: BackpressurePolicy, seconds: float, *, obey: bool = True, seed: int = 1
) -> Played:
    """Let the model run."""
    random, lane, played, admitted = Random(seed), Lane("invocations", policy), Played(), 1.0
    meters = [
        PartitionMeter(n, half_life_s=policy.half_life_s, busy=policy.least_records / len(partitions))
        for n in range(len(partitions))
    ]
    for step in range(int(seconds / STEP_S)):
        now_s = step * STEP_S
        for partition in partitions:
            partition.step(now_s, admitted if obey else 1.0, random)
        if step % round(SAMPLE_S / STEP_S) == 3:
            for partition in partitions:
                partition.report(now_s)
        if step % round(SAMPLE_S / STEP_S) == 0:
            now_ms = int(now_s * 1000)
            for meter, partition in zip(meters, partitions, strict=True):
                meter.sample(Reading(partition.position, int(partition.end), partition.load), now_s)
            own = StageLag("invocations", [meter.lag(now_ms) for meter in meters], policy)
            signal = lane.decide(own, (), now_s, now_ms)
            played.backlogs.append((now_s, [p.backlog for p in partitions]))
            if signal is not None:
                played.signals.append((now_s, signal))
                admitted = 0.0 if signal.level == "closed" else 1.0
    return played
