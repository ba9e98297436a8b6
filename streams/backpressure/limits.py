"""How full a partition is, against its share of a lane's bounds. Pure.

A lane is judged by its fullest partition: an agent instance lives on one of them, and that the others are empty helps
nobody who waits there. Since each has its share, the sum stays within the lane's bounds as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streams.backpressure.lag import PartitionLag
from streams.backpressure.policy import Bounds


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one partition, in records."""

    target: float
    slow: float
    close: float


@dataclass(frozen=True, slots=True)
class Fullness:
    """Where a lane stands between its bounds, and which partition says so."""

    at_target: bool = True
    slow: bool = False
    closed: bool = False
    why: str = ""


def limits(bounds: Bounds, partitions: int, capacity_per_s: float | None) -> Limits:
    """Return the bounds of one of *partitions*.

    Args:
        capacity_per_s: What its consumer does when it is busy; None while nobody knows, and records alone count.
    """
    least = bounds.least_records / partitions

    def bound(seconds: float, records: int, least: float) -> float:
        share = records / partitions
        return share if capacity_per_s is None else min(share, max(least, seconds * capacity_per_s))

    return Limits(
        # A target below the least, so that a lane whose consumer stands still does not waver around one number.
        bound(bounds.target_s, bounds.target_records, least / 2),
        bound(bounds.slow_s, bounds.slow_records, least),
        bound(bounds.close_s, bounds.close_records, least),
    )


def fullness(name: str, lags: Sequence[PartitionLag], bounds: Bounds) -> Fullness:
    """Return how full the partitions of one topic are.

    Args:
        name: Of the lane or stage, for the reason.
    """
    at_target, slow, closed, fullest, why = True, False, False, 0.0, ""
    for lag in lags:
        limit = limits(bounds, len(lags), lag.capacity_per_s)
        at_target &= lag.backlog <= limit.target
        slow |= lag.backlog >= limit.slow
        closed |= lag.backlog >= limit.close
        if (full := lag.backlog / limit.close) > fullest:
            fullest, why = full, _why(name, lag)
    return Fullness(at_target, slow, closed, why)


def fullest(all_of: Iterable[Fullness]) -> Fullness:
    """Return one for several stages: as full as the fullest of them, at target when all are."""
    found = sorted(all_of, key=lambda f: (not f.closed, not f.slow, f.at_target))
    if not found:
        return Fullness()
    first = found[0]
    return Fullness(all(f.at_target for f in found), first.slow, first.closed, first.why)


def _why(name: str, lag: PartitionLag) -> str:
    pace = f"{lag.speed_per_s:.1f}/s" if lag.speed_per_s else "nothing"
    silent = f", no report for {lag.silent_s:.0f} s" if lag.silent_s > 5 else ""
    return f"{name}[{lag.number}] has {lag.backlog} waiting or open and finishes {pace}{silent}"
