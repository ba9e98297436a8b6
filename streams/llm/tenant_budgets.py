"""Would this call pass its tenant's budget? Asked when the call's turn has come, before it is made.

Counted is what the log says was used in the window, in all shards, and in full what calls under way here may still use.
Calls under way in other processes are not seen until their results are counted there, a moment later: with several
dispatchers a budget can be passed by what they send within that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streams.llm.settings import TenantBudget
from streams.llm.usage_sums import Spent, UsageSums, window_start_ms
from streams.records.ids import StepId

COUNTED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class _Reserved:
    tenant: str
    tokens: int
    cost: float


class TenantBudgets:
    """Keeps tenants within their budgets.

    Args:
        budget_of: What a tenant may use in a window; None for no bound.
        now: Time of day in seconds since the epoch.
    """

    def __init__(
        self, budget_of: Callable[[str], TenantBudget | None], sums: UsageSums, now: Callable[[], float]
    ) -> None:
        self._budget_of = budget_of
        self._sums = sums
        self._now = now
        self._reserved: dict[StepId, _Reserved] = {}
        self._ended: dict[StepId, float] = {}
        self._totals: dict[str, Spent] = {}

    def problem(self, tenant: str, tokens: int, cost: float) -> str | None:
        """Say why a call that may use so much must not be made; None when it may.

        Args:
            tokens: Estimate of the input and the bound on the output.
            cost: What they cost.
        """
        budget = self._budget_of(tenant)
        if budget is None:
            return None
        self._let_go()
        start_ms = window_start_ms(int(self._now() * 1000), self._sums.window)
        spent, reserved = self._sums.spent(tenant, start_ms), self._totals.get(tenant) or Spent()
        for what, wanted, used, held, bound in (
            ("tokens", tokens, spent.tokens, reserved.tokens, budget.tokens),
            ("cost", cost, spent.cost, reserved.cost, budget.cost),
        ):
            if bound is not None and used + held + wanted > bound:
                return (
                    f"tenant {tenant!r} has used {used:,.12g} and reserved {held:,.12g} of its budget of {bound:,.12g} "
                    f"{what} a {self._sums.window}, and this call may use {wanted:,.12g} more; raise it with `streams "
                    f"llm limits --tenant {tenant} --budget-{what} N`, or wait for the next {self._sums.window}"
                )
        return None

    def reserve(self, step: StepId, tenant: str, tokens: int, cost: float) -> None:
        """Count a call that is being made."""
        if self._budget_of(tenant) is None:
            return
        self.release(step)
        self._reserved[step] = _Reserved(tenant, tokens, cost)
        total = self._totals.setdefault(tenant, Spent())
        total.tokens += tokens
        total.cost += cost

    def settle(self, step: StepId, tokens: int, cost: float) -> None:
        """Count what a call used in place of what it might, until the log counts it."""
        reserved = self._reserved.get(step)
        if reserved is None:
            return
        self.reserve(step, reserved.tenant, tokens, cost)
        self._ended[step] = self._now()

    def release(self, step: StepId) -> None:
        """Count a call no more: it used nothing, or the log counts it now."""
        reserved = self._reserved.pop(step, None)
        self._ended.pop(step, None)
        if reserved is None:
            return
        total = self._totals[reserved.tenant]
        total.tokens -= reserved.tokens
        total.cost -= reserved.cost
        if not total.tokens:
            del self._totals[reserved.tenant]

    def _let_go(self) -> None:
        """Count no more what the log should have counted long ago: another process owns its partition now."""
        while self._ended:
            step, ended_at = next(iter(self._ended.items()))
            if self._now() - ended_at < COUNTED_WITHIN_S:
                return
            self.release(step)
