"""Tokens of one model call: reserved as an estimate before it, reported by the provider after it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Input and output tokens of a call, estimated or reported.

    Raises:
        ValueError: a count is negative.
    """

    input_tokens: int = 0
    output_tokens: int = 0

    def __post_init__(self) -> None:
        if self.input_tokens < 0 or self.output_tokens < 0:
            raise ValueError(f"token counts must not be negative, got {self.input_tokens} in, {self.output_tokens} out")

    @property
    def total_tokens(self) -> int:
        """Both together, which is what some providers limit."""
        return self.input_tokens + self.output_tokens
