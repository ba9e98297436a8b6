"""One lane of invocations: what is measured of it and of the stages behind it comes in, signals for producers go out.

A saturated dispatcher or memory sink is lag too: what they cannot keep up with was an invocation before. So the lane is
as full as the fullest of its stages, and its retry-after is the longest that one of them needs. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streams.backpressure.lag import PartitionLag
from streams.backpressure.levels import LevelState, next_level
from streams.backpressure.limits import fullest, fullness, limits
from streams.backpressure.policy import BackpressurePolicy, Bounds
from streams.backpressure.rates import Rate
from streams.backpressure.retry_after import Draining, SmoothedWait, retry_after
from streams.records.control import BackpressureSignal, Level

# Signals of a lane where nothing changes are repeated well before the last one runs out.
_REPEATS_PER_TTL = 3


@dataclass(frozen=True, slots=True)
class StageLag:
    """What is measured of one topic: the lane's own, or one behind it.

    Attributes:
        low_share: Part of what arrived lately that has low priority.
    """

    name: str
    partitions: Sequence[PartitionLag]
    bounds: Bounds
    low_share: float = 0.0


class Lane:
    """Level and retry-after of one lane, and when its signal was last published."""

    def __init__(self, name: str, policy: BackpressurePolicy) -> None:
        self.name = name
        self._policy = policy
        self._level = LevelState()
        self._wait = SmoothedWait(policy.half_life_s)
        self._published_s = float("-inf")

    def resume(self, signal: BackpressureSignal, now_s: float) -> None:
        """Go on from what an earlier controller published; the dwell starts again."""
        if signal.level in {"slow", "closed"}:
            self._level = LevelState("closed" if signal.level == "closed" else "slow", now_s)

    def decide(self, own: StageLag, behind: Sequence[StageLag], now_s: float, now_ms: int) -> BackpressureSignal | None:
        """Take what was measured; return the signal when it is time to publish one.

        Args:
            own: The lane's topic of invocations.
            behind: Stages that its invocations go through later.
            now_s: Seconds of a clock that does not go back.
            now_ms: Milliseconds since the epoch, for the signal.
        """
        stages = (own, *behind)
        full = fullest(fullness(stage.name, stage.partitions, stage.bounds) for stage in stages)
        before, self._level = self._level, next_level(self._level, full, now_s, self._policy.dwell_s)
        level = self._level.level
        if level != before.level:
            self._wait.forget()
        quiet = level == before.level == "open"
        if quiet and now_s - self._published_s < self._policy.ttl_s / _REPEATS_PER_TTL:
            return None
        self._published_s = now_s
        wait_s = self._retry_after_s(level, stages, now_s)
        return BackpressureSignal(
            self.name,
            level,
            wait_s,
            sum(lag.backlog for lag in own.partitions),
            max((lag.lag_s for lag in own.partitions), default=0.0),
            sum(lag.arrival_per_s for lag in own.partitions),
            sum(lag.speed_per_s for lag in own.partitions),
            now_ms,
            self._policy.ttl_s,
            full.why if level != "open" else "",
        )

    def _retry_after_s(self, level: Level, stages: Sequence[StageLag], now_s: float) -> float:
        if level == "open":
            return 0.0
        policy = self._policy
        draining = [
            Draining(
                lag.backlog - limits(stage.bounds, len(stage.partitions), lag.capacity_per_s).target,
                lag.arrival_per_s * (0.0 if level == "closed" else 1.0 - stage.low_share),
                lag.speed_per_s,
            )
            for stage in stages
            for lag in stage.partitions
        ]
        wait_s = self._wait.take(retry_after(draining, floor_s=policy.floor_s, ceiling_s=policy.ceiling_s), now_s)
        return min(max(wait_s, policy.floor_s), policy.ceiling_s)


class LowShare:
    """Which part of what arrives has low priority.

    Args:
        half_life_s: An arrival weighs half after so long.
    """

    def __init__(self, half_life_s: float) -> None:
        self._all = Rate(half_life_s)
        self._low = Rate(half_life_s)

    def add(self, arrived: float, low: float, passed_s: float) -> None:
        """Count what has arrived in *passed_s* seconds."""
        self._all.add(arrived, passed_s)
        self._low.add(low, passed_s)

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self._low.per_s / self._all.per_s if self._all.per_s else 0.0
