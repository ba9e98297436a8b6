"""How long things take in the simulated cluster, and in whose name it does what it does later."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass

LOG_CONTEXT = contextvars.Context()
"""Context of what the log itself does later: it belongs to no process, so that no process's death stops it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take in the simulated cluster, in seconds.

    Attributes:
        latency_s: Shortest and longest time of a call; one in *slow_every* takes *slow_s* at most.
        request_timeout_s: After it a call without an answer raises.
    """

    latency_s: tuple[float, float] = (0.0002, 0.003)
    slow_every: int = 100
    slow_s: float = 0.25
    request_timeout_s: float = 10.0
    session_timeout_s: float = 6.0
    heartbeat_s: float = 1.0
    rebalance_timeout_s: float = 15.0
