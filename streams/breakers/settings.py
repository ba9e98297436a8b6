"""The thresholds of every breaker: one place for control plane, workers and shards, so that all judge alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from streams.breakers.policy import BreakerPolicy

POSTGRES = "postgres"
BUILT_IN: Mapping[str, Mapping[str, Any]] = {POSTGRES: {"window_s": None, "window_calls": 10, "minimum_calls": 3}}
"""Thresholds of dependencies that are called so rarely (a batch at a time) that the usual ones would wait too long."""

FORMS = "tool:NAME, llm:POOL or postgres (postgres:0, postgres:1 and so on where there are several)"


def postgres_dependencies(count: int) -> tuple[str, ...]:
    """Return the dependency of each of so many databases."""
    return (POSTGRES,) if count == 1 else tuple(f"{POSTGRES}:{number}" for number in range(count))


def is_dependency(name: str) -> bool:
    """Tell whether *name* has the form of a dependency's name."""
    kind, colon, rest = name.partition(":")
    if kind == POSTGRES:
        return not colon or rest.isdigit()
    return kind in {"tool", "llm"} and bool(rest)


class BreakerSettings(BreakerPolicy):
    """Thresholds of every dependency, and those of single ones.

    Attributes:
        per_dependency: Dependency (`tool:<name>`, `llm:<pool>`, `postgres`) to the thresholds that are its own; what
            they leave out is as for all.
    """

    per_dependency: Mapping[str, BreakerPolicy] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        general = {name: value for name, value in data.items() if name != "per_dependency"}
        own = data.get("per_dependency", {})
        if not isinstance(own, Mapping):
            return data
        merged = {
            name: {**general, **BUILT_IN.get(name, {}), **thresholds} if isinstance(thresholds, Mapping) else thresholds
            for name, thresholds in own.items()
        }
        return {**data, "per_dependency": merged}

    @field_validator("per_dependency")
    @classmethod
    def _names_are_dependencies(cls, own: Mapping[str, BreakerPolicy]) -> Mapping[str, BreakerPolicy]:
        if wrong := sorted(name for name in own if not is_dependency(name)):
            raise ValueError(f"{wrong[0]!r} is not a dependency; write {FORMS}")
        return own

    def policy_of(self, dependency: str) -> BreakerPolicy:
        """Return the thresholds of *dependency*."""
        own = self.per_dependency.get(dependency)
        kind = dependency.partition(":")[0]
        if own is None and kind in BUILT_IN:
            return self.per_dependency.get(kind) or self.model_copy(update=BUILT_IN[kind])
        return own or self

    def grace_of(self, dependency: str) -> float:
        """Return the seconds for which a fleet's record of *dependency* holds after its end."""
        return self.policy_of(dependency).grace_s
