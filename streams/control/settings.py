"""What the control plane decides by, and how often: one frozen model, validated once at the edge."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from streams.backpressure.policy import BackpressurePolicy
from streams.breakers.policy import BreakerPolicy


class ControlSettings(BaseModel):
    """Settings of the control role.

    Attributes:
        breaker: Thresholds of every dependency that is not in `breakers`.
        breakers: Dependency (`tool:<name>`, `llm:<pool>`, `postgres`) to its own thresholds.
        backpressure: Bounds of every lane of invocations.
        tick_s: Time between two looks at openings and leases that are over.
        sample_s: Time between two samples of the lag.
        digest_max_age_s: Digests older than this say nothing about now; they come in after an outage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    breaker: BreakerPolicy = BreakerPolicy()
    breakers: Mapping[str, BreakerPolicy] = Field(default_factory=dict)
    backpressure: BackpressurePolicy = BackpressurePolicy()
    tick_s: float = Field(default=0.1, gt=0, le=10)
    sample_s: float = Field(default=0.5, gt=0, le=60)
    digest_max_age_s: float = Field(default=30.0, gt=0)

    def breaker_policy(self, dependency: str) -> BreakerPolicy:
        """Return the thresholds of *dependency*."""
        return self.breakers.get(dependency, self.breaker)
