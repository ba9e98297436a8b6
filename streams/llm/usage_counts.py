"""Usage as counters of this process, by tenant and model: what a scrape reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.llm.usage_sums import OTHERS
from streams.records.steps import LlmResult


@dataclass(slots=True)
class Used:
    """Sums since the process began."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass(slots=True)
class UsageCounts:
    """Counts results.

    Attributes:
        max_tenants: Tenants that are told apart, those that come first; the others are counted together, because each
            is a series for ever.
        used: By tenant and model.
    """

    max_tenants: int = 50
    used: dict[tuple[str, str], Used] = field(default_factory=dict)
    _tenants: set[str] = field(default_factory=set)

    def count(self, result: LlmResult) -> None:
        """Add a result."""
        tenant = result.tenant
        if tenant not in self._tenants:
            if len(self._tenants) < self.max_tenants:
                self._tenants.add(tenant)
            else:
                tenant = OTHERS
        used = self.used.setdefault((tenant, result.served_by.partition(":")[2] or result.model), Used())
        used.requests += 1
        used.input_tokens += result.input_tokens
        used.output_tokens += result.output_tokens
        used.cost += result.cost
