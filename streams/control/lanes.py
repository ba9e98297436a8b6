"""Backpressure of the lanes of invocations, from what the lag monitor reports: which signals to publish when. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streams.backpressure import BackpressurePolicy, Bounds, LagReport, Lane, LowShare, StageLag, StageReport
from streams.backpressure.stages import INVOCATIONS
from streams.records.control import BackpressureSignal


class Lanes:
    """The lanes of a namespace.

    Args:
        behind: Bounds of the stages that invocations go through later, by kind of topic.
    """

    def __init__(self, policy: BackpressurePolicy, behind: Mapping[str, Bounds]) -> None:
        self._policy = policy
        self._behind = behind
        self._lanes: dict[str, Lane] = {}
        self._shares: dict[str, tuple[LowShare, int]] = {}
        self._at_s: float | None = None

    def resume(self, signals: Iterable[BackpressureSignal], now_s: float) -> None:
        """Go on from what an earlier controller published."""
        for signal in signals:
            self._lane(signal.lane).resume(signal, now_s)

    def decide(self, report: LagReport, now_s: float) -> list[BackpressureSignal]:
        """Return the signals that are to be published now.

        Args:
            now_s: Seconds of a clock that does not go back.
        """
        passed_s = now_s - self._at_s if self._at_s is not None else 0.0
        self._at_s = now_s
        behind = [
            StageLag(stage.name, stage.partitions, self._behind[stage.kind])
            for stage in report.stages
            # What nobody has ever consumed is no stage of this deployment: it may run without a memory sink.
            if stage.kind in self._behind and stage.consumed
        ]
        decided = []
        for stage in report.stages:
            if stage.kind == INVOCATIONS:
                own = StageLag(stage.name, stage.partitions, self._policy, self._low_share(stage, passed_s))
                decided.append(self._lane(stage.name).decide(own, behind, now_s, report.at_ms))
        return [signal for signal in decided if signal is not None]

    def _lane(self, name: str) -> Lane:
        return self._lanes.setdefault(name, Lane(name, self._policy))

    def _low_share(self, stage: StageReport, passed_s: float) -> float:
        share, before = self._shares.get(stage.name) or (LowShare(self._policy.half_life_s), stage.low_priority)
        arrived = sum(lag.arrival_per_s for lag in stage.partitions) * passed_s
        share.add(arrived, min(stage.low_priority - before, arrived), passed_s)
        self._shares[stage.name] = share, stage.low_priority
        return share.share
