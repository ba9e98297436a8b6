"""What is known of a pool from outside: what `streams llm status` and the metrics show. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from streams.llm.key_buckets import KeyStatus


@dataclass(slots=True)
class PoolCounts:
    """What happened since the start.

    Attributes:
        sent: Calls made.
        throttled: 429s met; with right limits there are none.
        unavailable: Calls that failed by an error of the endpoint or a timeout.
    """

    sent: int = 0
    throttled: int = 0
    unavailable: int = 0


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What `streams llm status` shows of a pool.

    Attributes:
        oldest_s: Age of the request that is held longest.
        down: Why the pool cannot answer, empty when it can.
    """

    name: str
    held: int
    running: int
    oldest_s: float
    down: str
    keys: tuple[KeyStatus, ...]
    counts: PoolCounts
