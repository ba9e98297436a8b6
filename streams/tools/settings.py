"""How a process works tool calls."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ToolSettings(BaseModel):
    """Settings of the role `tools`.

    Attributes:
        concurrency: Calls at a time in this process, all tools together; each tool has its own bound beside it.
        max_open: Look-ahead of a partition: calls that run or wait for a place. Split evenly between the tools, but
            each has at least its `concurrency`; what exceeds a tool's share moves to the overflow lane.
        max_parked: Calls of a partition's overflow lane that are remembered until their tool has room.
        backoff_s: Pause before the second attempt of a call; doubled for each further one, with jitter.
        backoff_ceiling_s: Longest pause.
        retry_ratio: Retries (and hedges) of a tool, as a part of its calls.
        retry_per_s: Retries a second that a tool has whatever the number of its calls.
        claims_kept_s: Seconds for which the claim of an at-most-once call is kept after it was answered.
        breaker_report_s: Seconds between two digests of outcomes for the fleet's breakers.
        max_abandoned_threads: Threads of tools that are plain functions and have not returned after their timeout,
            beyond which the process ends, so that a new one starts without them.
        drain_s: Seconds that calls under way may take to end when the process or its partitions end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(1_000, ge=1)
    max_open: int = Field(1_000, ge=1)
    max_parked: int = Field(50_000, ge=1)
    backoff_s: float = Field(0.05, gt=0)
    backoff_ceiling_s: float = Field(2.0, gt=0)
    retry_ratio: float = Field(0.2, ge=0, le=10)
    retry_per_s: float = Field(1.0, ge=0)
    claims_kept_s: float = Field(86_400.0, ge=0)
    breaker_report_s: float = Field(0.25, gt=0)
    max_abandoned_threads: int = Field(32, ge=0)
    drain_s: float = Field(5.0, ge=0)
