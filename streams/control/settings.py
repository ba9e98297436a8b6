"""What the control plane decides by, and how often: one frozen model, validated once at the edge.

Thresholds of breakers are not here: they are the fleet's, `streams.breakers.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from streams.backpressure.policy import BackpressurePolicy, Bounds

BEHIND = {
    "llm-requests": Bounds(
        target_s=20, slow_s=120, close_s=300, target_records=10_000, slow_records=50_000, close_records=100_000
    ),
    "state-deltas": Bounds(
        target_s=20, slow_s=120, close_s=300, target_records=200_000, slow_records=1_000_000, close_records=2_000_000
    ),
}
"""Requests are held on purpose while keys are at their limits, and the log holds what the sink has not written: only
what would take minutes to work off is too much."""


class ControlSettings(BaseModel):
    """Settings of the control role.

    Attributes:
        backpressure: Bounds of every lane of invocations.
        behind: Kind of topic (`tool-calls`, `llm-requests`, `state-deltas`, `results`) to bounds beyond which the lanes
            of invocations are slowed and closed, because what comes in could not be worked off there.
        agent_queues: Read the headers of all invocations, for depth and oldest age of each agent's queue.
        tick_s: Time between two looks at openings and leases that are over.
        sample_s: Time between two samples of the lag.
        digest_max_age_s: Digests older than this say nothing about now; they come in after an outage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backpressure: BackpressurePolicy = BackpressurePolicy()
    behind: Mapping[str, Bounds] = Field(default_factory=lambda: dict(BEHIND))
    agent_queues: bool = True
    tick_s: float = Field(default=0.1, gt=0, le=10)
    sample_s: float = Field(default=0.5, gt=0, le=60)
    digest_max_age_s: float = Field(default=30.0, gt=0)
