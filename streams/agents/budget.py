"""What an invocation may spend."""

from __future__ import annotations

from dataclasses import dataclass

from streams.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds on one invocation; the call that would pass one raises `BudgetExceeded` instead of being made.

    Attributes:
        tokens: Input and output tokens together.
        cost: In the currency of the price table.

    Raises:
        ConfigurationError: A bound of zero or below.
    """

    tokens: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name, bound in (("tokens", self.tokens), ("cost", self.cost)):
            if bound is not None and bound <= 0:
                raise ConfigurationError(f"budget of {bound} {name} leaves nothing to spend; give more than 0 or None")
