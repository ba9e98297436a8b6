"""What the dispatcher measures of the requests that it answers, by the pool that each was sent to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from streams.observe import registry as m
from streams.observe.distribution import Distributions
from streams.records.steps import LlmResult


class LlmMeasures:
    """Distributions, and sums of tokens.

    Args:
        pools: Names that are told apart; a request may name any.

    Attributes:
        tokens: By pool and direction.
    """

    def __init__(self, pools: Container[str]) -> None:
        self._pools = pools
        self._held = Distributions(m.LLM_HELD_SECONDS)
        self._calls = Distributions(m.LLM_CALL_SECONDS)
        self.tokens: Counter[tuple[str, str]] = Counter()

    @property
    def distributions(self) -> tuple[Distributions, ...]:
        """All of them, for a scrape."""
        return self._held, self._calls

    def answer(self, result: LlmResult) -> None:
        """Count an answer."""
        pool = result.model if result.model in self._pools else m.OTHER
        self._held[(pool,)].add(result.held_s)
        self._calls[pool, result.status].add(result.elapsed_s)
        self.tokens[pool, "input"] += result.input_tokens
        self.tokens[pool, "output"] += result.output_tokens
