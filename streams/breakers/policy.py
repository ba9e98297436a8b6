"""When a breaker opens, for how long, and how it finds out that the dependency is back: the thresholds, validated."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class BreakerPolicy(BaseModel):
    """Thresholds of one breaker.

    Attributes:
        window_s: Calls that are judged: those of the latest so many seconds. None judges by number, see `window_calls`.
        window_calls: Calls that are judged where `window_s` is None: the latest so many.
        minimum_calls: Calls below which nothing is concluded.
        failure_rate: Share of failed calls in the window at which the breaker opens.
        slow_call_s: Seconds from which a call counts as slow; None judges no call by its duration.
        slow_rate: Share of slow calls in the window at which the breaker opens.
        counted_errors: Class names of errors that are failures of the dependency; empty for all. With some named, every
            other error counts as a success.
        ignored_errors: Class names of errors that say nothing about the dependency: such a call is not counted. Goes
            before `counted_errors`.
        open_s: Seconds that the first opening lasts.
        open_factor: Each further opening lasts this much longer than the one before.
        open_ceiling_s: Longest opening, but for what `retry_after_ceiling_s` allows.
        retry_after_ceiling_s: Longest opening that the dependency itself can ask for (Retry-After of a 503).
        jitter: Share by which an opening is lengthened or shortened at random, so that the fleet's probes spread.
        calm_s: Seconds closed after which openings are counted from one again.
        probe_lease_s: Seconds that a caller has to begin the leased probe; then the lease moves on. A probe that has
            begun is waited for as long as its call may take.
        grace_s: Seconds after its end for which a fleet's record still holds; then the control plane counts as silent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: float | None = Field(default=None, ge=1, le=3600)
    window_calls: int = Field(default=50, ge=1, le=100_000)
    minimum_calls: int = Field(default=10, ge=1, le=1_000_000)
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    slow_call_s: float | None = Field(default=None, gt=0, le=86_400)
    slow_rate: float = Field(default=0.9, gt=0, le=1)
    counted_errors: frozenset[str] = frozenset()
    ignored_errors: frozenset[str] = frozenset()
    open_s: float = Field(default=5.0, gt=0, le=3600)
    open_factor: float = Field(default=2.0, ge=1, le=10)
    open_ceiling_s: float = Field(default=120.0, gt=0, le=86_400)
    retry_after_ceiling_s: float = Field(default=900.0, ge=0, le=86_400)
    jitter: float = Field(default=0.2, ge=0, lt=1)
    calm_s: float = Field(default=60.0, ge=0, le=86_400)
    probe_lease_s: float = Field(default=5.0, gt=0, le=600)
    grace_s: float = Field(default=5.0, gt=0, le=600)

    @field_validator("counted_errors", "ignored_errors")
    @classmethod
    def _are_class_names(cls, names: frozenset[str]) -> frozenset[str]:
        if wrong := sorted(name for name in names if not name.isidentifier()):
            raise ValueError(f"{wrong[0]!r} is not the name of a class; write it as type(error).__name__ gives it")
        return names

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.window_s is None and self.minimum_calls > self.window_calls:
            raise ValueError(
                f"minimum_calls {self.minimum_calls} exceeds window_calls {self.window_calls}: the breaker could never "
                "open; lower the first or raise the second"
            )
        if self.open_s > self.open_ceiling_s:
            raise ValueError(
                f"open_s {self.open_s:g} exceeds open_ceiling_s {self.open_ceiling_s:g}; lower the first or raise the "
                "second"
            )
        if both := sorted(self.counted_errors & self.ignored_errors):
            raise ValueError(f"{both[0]!r} is in counted_errors and in ignored_errors; take it out of one of them")
        return self

    def ignores(self, error: str) -> bool:
        """Tell whether an error of that class says nothing about the dependency."""
        return error in self.ignored_errors

    def counts(self, error: str) -> bool:
        """Tell whether an error of that class, if it is not ignored, is a failure of the dependency."""
        return not self.counted_errors or error in self.counted_errors

    def open_time_ms(self, openings: int, luck: float, retry_after_ms: int = 0) -> int:
        """Return how long the opening number *openings* (from 1) lasts, in ms.

        Args:
            luck: Uniform in [0, 1); spreads the answer by `jitter` to both sides.
            retry_after_ms: What the dependency asked for. The opening never ends before that, within its own ceiling;
                jitter then only lengthens.
        """
        # The exponent is bounded before it is used: openings grow without limit on a dependency that is gone.
        plain = min(self.open_s * self.open_factor ** min(openings - 1, 64), self.open_ceiling_s)
        own_ms = 1000 * plain * (1 + self.jitter * (2 * luck - 1))
        asked_ms = min(retry_after_ms, 1000 * self.retry_after_ceiling_s) * (1 + self.jitter * luck)
        return round(max(own_ms, asked_ms))
