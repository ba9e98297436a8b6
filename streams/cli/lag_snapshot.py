"""What `streams lag` shows of one moment: how far behind each lane and partition is, and what its producers are told.

Pure: reports of the monitor come in. What the control role published counts while it holds; without it, what it would
say is worked out here with the same rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.backpressure import LagReport, PartitionLag, StageReport
    from streams.records.control import BackpressureSignal

HISTORY = 30
"""Samples that a sparkline shows."""


@dataclass(frozen=True, slots=True)
class Told:
    """What producers of a lane are told.

    Attributes:
        published: By the control role, and still valid; otherwise it is worked out here, and nobody is told.
    """

    level: str
    retry_after_s: float
    reason: str
    published: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One partition, or a lane over all of them.

    Attributes:
        partition: None for the lane.
        unread: Records behind the position; *open* were read and are under way or wait for their agent instance.
        silent_s: Seconds for which the consumer has not reported.
        history: Lag in seconds, oldest first.
    """

    partition: int | None
    unread: int
    open: int
    lag_s: float
    arrival_per_s: float
    drain_per_s: float
    silent_s: float
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane of invocations, or a topic behind it.

    Attributes:
        consumed: Somebody has read from it once.
        told: None for topics whose producers are not told.
        total: Over all partitions, with the longest lag.
    """

    name: str
    consumed: bool
    told: Told | None
    total: Row
    partitions: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Invocations of an agent that wait, unread or in mailboxes."""

    agent: str
    depth: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """See the module.

    Attributes:
        queues: The longest first.
        uncounted: Unread invocations that are not in *queues* yet.
    """

    at_ms: int
    lanes: tuple[LaneView, ...]
    queues: tuple[Waiting, ...]
    uncounted: int

    def plain(self) -> dict[str, Any]:
        """Return it for JSON, without the history."""
        lanes = []
        for lane in self.lanes:
            total = _plain_row(lane.total)
            del total["partition"]
            told = asdict(lane.told) if lane.told else {}
            lanes.append(
                {"lane": lane.name, "consumed": lane.consumed, **told, **total,
                 "partitions": [_plain_row(row) for row in lane.partitions]}
            )  # fmt: skip
        queues = [asdict(waiting) for waiting in self.queues]
        return {"at_ms": self.at_ms, "lanes": lanes, "queues": queues, "uncounted": self.uncounted}


class Snapshots:
    """Makes snapshots of reports, and remembers what their sparklines need."""

    def __init__(self) -> None:
        self._history: dict[tuple[str, int | None], deque[float]] = {}

    def take(
        self,
        report: LagReport,
        published: Mapping[str, BackpressureSignal],
        estimated: Mapping[str, BackpressureSignal],
    ) -> Snapshot:
        """Return what is shown of a report.

        Args:
            published: Signals of the control role that still hold, by lane.
            estimated: What it would publish.
        """
        lanes = tuple(
            LaneView(
                stage.name,
                stage.consumed,
                _told(published.get(stage.name), estimated.get(stage.name)),
                self._total(stage),
                tuple(self._row(stage.name, lag) for lag in stage.partitions),
            )
            for stage in report.stages
        )
        waiting = (Waiting(agent, queue.depth, report.oldest_s(agent)) for agent, queue in report.queues.items())
        queues = sorted((it for it in waiting if it.depth), key=lambda it: (-it.depth, it.agent))
        return Snapshot(report.at_ms, lanes, tuple(queues), report.uncounted)

    def _row(self, lane: str, lag: PartitionLag) -> Row:
        history = self._remember((lane, lag.number), lag.lag_s)
        return Row(
            lag.number, lag.unread, lag.load.open, lag.lag_s, lag.arrival_per_s, lag.drain_per_s, lag.silent_s, history
        )

    def _total(self, stage: StageReport) -> Row:
        lags = stage.partitions
        return Row(
            None,
            sum(lag.unread for lag in lags),
            sum(lag.load.open for lag in lags),
            stage.lag_s,
            sum(lag.arrival_per_s for lag in lags),
            sum(lag.drain_per_s for lag in lags),
            max((lag.silent_s for lag in lags), default=0.0),
            self._remember((stage.name, None), stage.lag_s),
        )

    def _remember(self, key: tuple[str, int | None], lag_s: float) -> tuple[float, ...]:
        history = self._history.setdefault(key, deque(maxlen=HISTORY))
        history.append(lag_s)
        return tuple(history)


def worst_first(rows: Iterable[Row], most: int) -> tuple[Sequence[Row], int]:
    """Return at most *most* rows, those furthest behind, by their numbers; and how many are left out."""
    everything = list(rows)
    ranked = sorted(everything, key=lambda row: (-row.lag_s, -row.unread, row.partition or 0))
    kept = sorted(ranked[: max(0, most)], key=lambda row: row.partition or 0)
    return kept, len(everything) - len(kept)


def _told(published: BackpressureSignal | None, estimated: BackpressureSignal | None) -> Told | None:
    signal = published or estimated
    if signal is None:
        return None
    return Told(signal.level, signal.retry_after_s, signal.reason, published is not None)


def _plain_row(row: Row) -> dict[str, Any]:
    plain = asdict(row)
    del plain["history"]
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in plain.items()}
