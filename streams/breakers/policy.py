"""When a breaker opens, for how long, and how it finds out that the dependency is back: the thresholds, validated."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BreakerPolicy(BaseModel):
    """Thresholds of one breaker.

    Attributes:
        window_calls: Calls that are judged: the latest so many.
        minimum_calls: Calls below which nothing is concluded.
        failure_rate: Share of failed calls in the window at which the breaker opens.
        slow_call_s: Seconds from which a call counts as slow; None judges no call by its duration.
        slow_rate: Share of slow calls in the window at which the breaker opens.
        open_s: Seconds that the first opening lasts.
        open_factor: Each further opening lasts this much longer than the one before.
        open_ceiling_s: Longest opening.
        jitter: Share by which an opening is lengthened or shortened at random, so that the fleet's probes spread.
        calm_s: Seconds closed after which openings are counted from one again.
        probe_lease_s: Seconds that a caller has to send the leased probe and report it; longer than the slowest call.
        grace_s: Seconds after its end for which a fleet's record still holds; then the control plane counts as silent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_calls: int = Field(default=50, ge=1, le=100_000)
    minimum_calls: int = Field(default=10, ge=1)
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    slow_call_s: float | None = Field(default=None, gt=0)
    slow_rate: float = Field(default=0.9, gt=0, le=1)
    open_s: float = Field(default=5.0, gt=0, le=3600)
    open_factor: float = Field(default=2.0, ge=1, le=10)
    open_ceiling_s: float = Field(default=120.0, gt=0, le=86_400)
    jitter: float = Field(default=0.2, ge=0, lt=1)
    calm_s: float = Field(default=60.0, ge=0)
    probe_lease_s: float = Field(default=10.0, gt=0, le=600)
    grace_s: float = Field(default=5.0, gt=0, le=600)

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.minimum_calls > self.window_calls:
            raise ValueError(
                f"minimum_calls {self.minimum_calls} exceeds window_calls {self.window_calls}: the breaker could never "
                "open; lower the first or raise the second"
            )
        if self.open_s > self.open_ceiling_s:
            raise ValueError(f"open_s {self.open_s} exceeds open_ceiling_s {self.open_ceiling_s}")
        return self

    def open_time_ms(self, openings: int, luck: float) -> int:
        """Return how long the opening number *openings* (from 1) lasts, in ms.

        Args:
            luck: Uniform in [0, 1); spreads the answer by `jitter` to both sides.
        """
        # The exponent is bounded before it is used: openings grow without limit on a dependency that is gone.
        plain = min(self.open_s * self.open_factor ** min(openings - 1, 64), self.open_ceiling_s)
        return round(1000 * plain * (1 + self.jitter * (2 * luck - 1)))
