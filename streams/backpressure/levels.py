"""Whether a lane is open, slow or closed: thresholds with hysteresis, and a dwell between two changes.

A level is entered at its threshold and left only at the one below, so that a backlog that wavers around a threshold
changes nothing. Pure: backlog and time come in, the next state comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.backpressure.policy import BackpressurePolicy
from streams.records.control import Level


@dataclass(frozen=True, slots=True)
class LevelState:
    """A lane's level and when it was entered, in seconds of the caller's clock."""

    level: Level = "open"
    since_s: float = float("-inf")


def next_level(state: LevelState, backlog: float, now_s: float, policy: BackpressurePolicy) -> LevelState:
    """Return the state after seeing *backlog* records at *now_s*; the same object when nothing changes."""
    wanted = _wanted(state.level, backlog, policy)
    if wanted == state.level or now_s - state.since_s < policy.dwell_s:
        return state
    return LevelState(wanted, now_s)


def _wanted(level: Level, backlog: float, policy: BackpressurePolicy) -> Level:
    if backlog >= policy.close_records:
        return "closed"
    if backlog >= policy.slow_records:
        return "closed" if level == "closed" else "slow"
    if backlog > policy.target_records and level != "open":
        return "slow"
    return "open"
