"""From which backlog on producers are slowed and stopped, and how a signal about it lives: the bounds, validated."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Bounds(BaseModel):
    """How much backlog is too much, in seconds of its consumer's work and in records: what is reached first counts.

    Seconds are what users feel, and follow what the consumer can do: 30 s are 60 invocations for one that does two a
    second, and 30,000 for one that does a thousand. They count the whole time from submission to result, so they must
    be longer than an invocation takes when nothing waits. Records bound what a log and a restart have to cope with, and
    what holds while nothing is known about the consumer's speed. Both are of a lane; each partition has its share.

    Attributes:
        target_s: Backlog, in seconds of work, at which producers are welcome again; retry-after is the time until then.
        slow_s: From which low priorities wait.
        close_s: From which everyone waits.
        target_records, slow_records, close_records: The same in records.
        least_records: Backlog that is never too much, however slow the consumer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_s: float = Field(default=5.0, gt=0)
    slow_s: float = Field(default=30.0, gt=0)
    close_s: float = Field(default=60.0, gt=0)
    target_records: int = Field(default=1_000, ge=0)
    slow_records: int = Field(default=10_000, ge=1)
    close_records: int = Field(default=50_000, ge=1)
    least_records: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        for unit in ("s", "records"):
            target, slow, close = (getattr(self, f"{name}_{unit}") for name in ("target", "slow", "close"))
            if not target < slow <= close:
                raise ValueError(
                    f"target_{unit} {target:g} < slow_{unit} {slow:g} <= close_{unit} {close:g} does not hold; levels "
                    "would flap"
                )
        return self


class BackpressurePolicy(Bounds):
    """Bounds of one lane, and how its signals live.

    Attributes:
        dwell_s: Shortest time between two changes of level.
        ttl_s: Seconds after which a signal says nothing any more.
        floor_s: Shortest wait that is worth telling a caller.
        ceiling_s: Longest wait that is believed; beyond it the rates will have changed.
        half_life_s: Rates are averages in which a sample weighs half after so long.
    """

    dwell_s: float = Field(default=2.0, ge=0)
    ttl_s: float = Field(default=15.0, gt=0)
    floor_s: float = Field(default=0.1, ge=0)
    ceiling_s: float = Field(default=60.0, gt=0)
    half_life_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _floor_is_below_ceiling(self) -> Self:
        if self.floor_s > self.ceiling_s:
            raise ValueError(f"floor_s {self.floor_s} exceeds ceiling_s {self.ceiling_s}")
        return self
