"""What a step gives back: outcomes for agents, failures for fallbacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a dependency gave no answer; what a `fallback_fn` gets first.

    Attributes:
        dependency: `tool:<name>` or `llm:<model>`.
        cause: `timeout`, `error`, `interrupted` (it may have happened), `expired`, `open` (breaker), `outage`,
            `deadline`, `unencodable`, `throttled` (429), `cancelled` (before it began), `budget`, `too_large` (for the
            limits of the model's keys).
        message: The error's words, empty where there are none.
        attempts: How often it was tried.
        elapsed_s: Seconds spent in the dependency.
    """

    dependency: str
    cause: str
    message: str = ""
    attempts: int = 0
    elapsed_s: float = 0.0

    @property
    def reason(self) -> str:
        """Cause and message in one line."""
        return f"{self.cause}: {self.message}" if self.message else self.cause


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T_co]):
    """What `await tool.outcome(...)` gives.

    Attributes:
        value: What the tool returned, or what its fallback gave.
        degraded: The value is the fallback's.
        cause: Why, when degraded (see `Failure.cause`).
        attempts: How often the tool was tried.
        elapsed_s: Seconds in the tool, all attempts together.
    """

    value: T_co
    degraded: bool = False
    cause: str = ""
    attempts: int = 1
    elapsed_s: float = 0.0
