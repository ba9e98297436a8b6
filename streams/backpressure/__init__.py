"""Backpressure: lag becomes a level and a retry-after, and producers pass a gate that obeys them.

What decides is pure, with time handed in: `Lane` turns what is measured into a signal, `Gate` tells a producer how long
to wait. `LagMonitor` is the shell that measures, for the control plane and for people who look; `WaitingLine` the one
in which a client's submissions wait.
"""

from streams.backpressure.gate import Gate, GateCounts
from streams.backpressure.lag import PartitionLag, PartitionMeter, Reading
from streams.backpressure.lane import Lane, LowShare, StageLag
from streams.backpressure.levels import LevelState, next_level
from streams.backpressure.limits import Fullness, fullness
from streams.backpressure.monitor import LagMonitor, LagReport, StageReport
from streams.backpressure.policy import BackpressurePolicy, Bounds
from streams.backpressure.retry_after import Draining, retry_after
from streams.backpressure.waiting_line import WaitingLine

__all__ = [
    "BackpressurePolicy",
    "Bounds",
    "Draining",
    "Fullness",
    "Gate",
    "GateCounts",
    "LagMonitor",
    "LagReport",
    "Lane",
    "LevelState",
    "LowShare",
    "PartitionLag",
    "PartitionMeter",
    "Reading",
    "StageLag",
    "StageReport",
    "WaitingLine",
    "fullness",
    "next_level",
    "retry_after",
]
