"""From which backlog on producers are slowed and stopped, and how a signal about it lives: the bounds, validated."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BackpressurePolicy(BaseModel):
    """Bounds of one lane.

    Attributes:
        target_records: Backlog of the lane at which producers are welcome again; retry-after is the time until then.
        slow_records: Backlog from which low priorities wait.
        close_records: Backlog from which everyone waits.
        dwell_s: Shortest time between two changes of level.
        ttl_s: Seconds after which a signal says nothing any more.
        floor_s: Shortest wait that is worth telling a caller.
        ceiling_s: Longest wait that is believed; beyond it the rates will have changed.
        half_life_s: Rates are averages in which a sample weighs half after so long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_records: int = Field(default=1_000, ge=0)
    slow_records: int = Field(default=10_000, ge=1)
    close_records: int = Field(default=50_000, ge=1)
    dwell_s: float = Field(default=2.0, ge=0)
    ttl_s: float = Field(default=15.0, gt=0)
    floor_s: float = Field(default=0.1, ge=0)
    ceiling_s: float = Field(default=60.0, gt=0)
    half_life_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if not self.target_records < self.slow_records <= self.close_records:
            raise ValueError(
                f"target_records {self.target_records} < slow_records {self.slow_records} <= close_records "
                f"{self.close_records} does not hold; levels would flap"
            )
        if self.floor_s > self.ceiling_s:
            raise ValueError(f"floor_s {self.floor_s} exceeds ceiling_s {self.ceiling_s}")
        return self
