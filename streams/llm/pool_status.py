"""What is known of a pool from outside: what `streams llm status` and the metrics show. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from streams.llm.key_buckets import KeyStatus


@dataclass(slots=True)
class PoolCounts:
    """What happened since the start.

    Attributes:
        sent: Calls made.
        sent_again: Those of them for requests that may have reached the provider before: after a timeout or an error of
            the endpoint, or because they waited unanswered when this process took their partition over.
        throttled: 429s met; with right limits there are none.
        unavailable: Calls that failed by an error of the endpoint or a timeout.
        interrupted: Requests of at-most-once pools that were given up because a call of theirs may have been answered.
        ended: Calls that are over, however they ended.
        busy_s: Seconds that these took together.
    """

    sent: int = 0
    sent_again: int = 0
    throttled: int = 0
    unavailable: int = 0
    interrupted: int = 0
    ended: int = 0
    busy_s: float = 0.0

    @property
    def mean_call_s(self) -> float:
        """Seconds that a call takes; 0 before the first has ended."""
        return self.busy_s / self.ended if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What `streams llm status` shows of a pool.

    Attributes:
        oldest_s: Age of the request that is held longest.
        down: Why the pool cannot answer, empty when it can.
        expected_wait_s: How long a request that comes now will probably be held; infinite when nothing tells,
            and while the pool is down.
    """

    name: str
    held: int
    running: int
    oldest_s: float
    down: str
    keys: tuple[KeyStatus, ...]
    counts: PoolCounts
    expected_wait_s: float = 0.0
