"""How a process works tool calls."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ToolSettings(BaseModel):
    """Settings of the role `tools`.

    Attributes:
        max_open: Calls of a partition that run or wait for their tool's concurrency; beyond it nothing more is read.
        backoff_s: Pause before the second attempt of a call; doubled for each further one, with jitter.
        backoff_ceiling_s: Longest pause.
        claims_kept_s: Seconds for which the claim of an at-most-once call is kept after it was answered.
        breaker_report_s: Seconds between two digests of outcomes for the fleet's breakers.
        threads: Threads for tools that are plain functions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_open: int = Field(1_000, ge=1)
    backoff_s: float = Field(0.05, gt=0)
    backoff_ceiling_s: float = Field(2.0, gt=0)
    claims_kept_s: float = Field(86_400.0, ge=0)
    breaker_report_s: float = Field(0.25, gt=0)
    threads: int = Field(32, ge=1)
