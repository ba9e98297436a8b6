"""Whether a lane is open, slow or closed: bounds with hysteresis, and a dwell between two changes.

A level is entered at its bound and left only at the target: a closed lane stays closed until the backlog is where
retry-after said it would be, and then lets the low priorities wait for one dwell more. So a backlog that wavers around
a bound changes nothing. Pure: fullness and time come in, the next state comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.backpressure.limits import Fullness
from streams.records.control import Level


@dataclass(frozen=True, slots=True)
class LevelState:
    """A lane's level and when it was entered, in seconds of the caller's clock."""

    level: Level = "open"
    since_s: float = float("-inf")


def next_level(state: LevelState, full: Fullness, now_s: float, dwell_s: float) -> LevelState:
    """Return the state after seeing *full* at *now_s*; the same object when nothing changes."""
    wanted = _wanted(state.level, full)
    if wanted == state.level or now_s - state.since_s < dwell_s:
        return state
    return LevelState(wanted, now_s)


def _wanted(level: Level, full: Fullness) -> Level:
    if full.closed:
        return "closed"
    match level:
        case "open":
            return "slow" if full.slow else "open"
        case "slow":
            return "open" if full.at_target else "slow"
        case "closed":
            return "slow" if full.at_target else "closed"
