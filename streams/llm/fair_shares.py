"""What share of a pool each of its dispatchers should have, so that tenants are served fairly over all of them. Pure.

Tenants get what they ask for up to a level that is the same for all (max-min fairness, by weight); what a tenant gets
is divided among the dispatchers as its work is. What nobody asks for is divided evenly, so that whoever gets work has
room for it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FLOOR = 0.001
"""Least share of a dispatcher without any work: enough to be there, too little to be missed elsewhere."""

LEAST_PART = 0.02
"""Below it a tenant's weight with one dispatcher does not fall: what waits there is told late."""


def fair_shares(
    wanted: Mapping[str, Mapping[str, float]], capacity: float, weights: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the share of each dispatcher; together they are 1.

    Args:
        wanted: Tokens, by dispatcher and tenant.
        capacity: Tokens that the pool serves in the time for which they are wanted.
        weights: Of tenants that count for more or less than 1.
    """
    if not wanted:
        return {}
    totals: dict[str, float] = {}
    for tenants in wanted.values():
        for tenant, tokens in tenants.items():
            if tokens > 0:
                totals[tenant] = totals.get(tenant, 0.0) + tokens
    # With less than what makes the smallest tenant content, all are equal anyway.
    weight = {tenant: (weights or {}).get(tenant, 1.0) for tenant in totals}
    least = min((totals[tenant] / weight[tenant] for tenant in totals), default=0.0) * sum(weight.values())
    capacity = max(capacity, least, 1.0)
    given = _fill(totals, weight, capacity)
    rest = max(0.0, 1.0 - sum(given.values()) / capacity) / len(wanted)
    shares = {}
    for name, tenants in wanted.items():
        due = sum(given[tenant] / totals[tenant] * tokens for tenant, tokens in tenants.items() if tokens > 0)
        shares[name] = max(FLOOR, rest + due / capacity)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def parts_here(mine: Mapping[str, float], others: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return what part of each tenant's work waits with this dispatcher, for those that have some elsewhere too.

    A tenant that counts for that much of its weight with each dispatcher counts for its weight over all of them.

    Args:
        mine: Tokens, by tenant; *others* has the same of every other dispatcher.
    """
    elsewhere: dict[str, float] = {}
    for tenants in others:
        for tenant, tokens in tenants.items():
            elsewhere[tenant] = elsewhere.get(tenant, 0.0) + tokens
    return {
        tenant: max(LEAST_PART, tokens / (tokens + elsewhere[tenant]))
        for tenant, tokens in mine.items()
        if tokens > 0 and elsewhere.get(tenant, 0.0) > 0
    }


def _fill(totals: Mapping[str, float], weight: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Return what each tenant gets of *capacity*: the same for its weight, but no more than it wants."""
    left, open_weight, given = capacity, sum(weight.values()), dict[str, float]()
    for tenant in sorted(totals, key=lambda name: totals[name] / weight[name]):
        given[tenant] = min(totals[tenant], left * weight[tenant] / open_weight)
        left -= given[tenant]
        open_weight -= weight[tenant]
    return given
