"""What the mock provider can be told, at start and live through `POST /control`."""

from __future__ import annotations

import math
import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Z99 = 2.3263478740408408
"""The 99th percentile of the standard normal distribution."""


class Limits(BaseModel):
    """Limits of one API key; None does not limit.

    Attributes:
        tokens_per_minute: Input and output together.
        burst_s: Seconds' worth of refill that each bucket holds; buckets start full.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int | None = Field(default=None, gt=0)
    tokens_per_minute: int | None = Field(default=None, gt=0)
    input_tokens_per_minute: int | None = Field(default=None, gt=0)
    output_tokens_per_minute: int | None = Field(default=None, gt=0)
    concurrency: int | None = Field(default=None, gt=0)
    burst_s: float = Field(default=60.0, gt=0)


class MockConfig(BaseModel):
    """Behaviour of the mock provider.

    Attributes:
        limits: For every key that *keys* does not name.
        keys: API keys with their limits; when given, other keys get 401. None accepts any key.
        latency_p50_s: Median time to answer; exactly that for every answer unless *latency_p99_s* is given.
        latency_p99_s: 99th percentile of a lognormal distribution around the median.
        chunk_gap_s: With streaming, time between two pieces.
        error_rate: Share of requests that get a 500. They count against the limits like any other.
        hang_rate: Share of requests that are never answered, until the caller goes away or *hang_s* is over.
        outage: `error` answers 503 to everything, `hang` answers nothing.
        seed: For latency, errors and hangs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: Limits = Limits()
    keys: dict[str, Limits] | None = None
    latency_p50_s: float = Field(default=0.0, ge=0)
    latency_p99_s: float | None = Field(default=None, ge=0)
    chunk_gap_s: float = Field(default=0.0, ge=0)
    error_rate: float = Field(default=0.0, ge=0, le=1)
    hang_rate: float = Field(default=0.0, ge=0, le=1)
    hang_s: float = Field(default=3600.0, gt=0)
    outage: Literal["none", "error", "hang"] = "none"
    seed: int = 0

    @model_validator(mode="after")
    def _percentiles_in_order(self) -> MockConfig:
        if self.latency_p99_s is not None and not 0 < self.latency_p50_s <= self.latency_p99_s:
            raise ValueError(
                f"latency_p99_s of {self.latency_p99_s} needs a latency_p50_s above 0 and not above it, "
                f"got {self.latency_p50_s}"
            )
        return self

    def latency_s(self, chance: random.Random) -> float:
        """Draw the time that one answer takes."""
        if self.latency_p99_s is None or self.latency_p99_s == self.latency_p50_s:
            return self.latency_p50_s
        sigma = math.log(self.latency_p99_s / self.latency_p50_s) / Z99
        return self.latency_p50_s * math.exp(sigma * chance.gauss(0, 1))
