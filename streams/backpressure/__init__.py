"""Backpressure: lag becomes a level and a retry-after, and producers pass a gate that obeys them.

Pure, with time handed in. Hands `LagMeter`, `next_level` and `retry_after` to the control plane, which samples and
publishes, and `Gate` to the clients and the gateway, which publish invocations.
"""

from streams.backpressure.gate import Gate
from streams.backpressure.lag import LagMeter
from streams.backpressure.levels import LevelState, next_level
from streams.backpressure.policy import BackpressurePolicy
from streams.backpressure.retry_after import PartitionLag, retry_after

__all__ = ["BackpressurePolicy", "Gate", "LagMeter", "LevelState", "PartitionLag", "next_level", "retry_after"]
