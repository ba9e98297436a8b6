"""Limits and tenants' budgets that operators change while everything runs: the `limits` topic over the settings.

Values only. The latest record of a subject holds; a tombstone brings back what is configured. A record that makes no
sense changes nothing and is named in the log, since a typing error must not stop a fleet.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from streams.errors import InvalidInput
from streams.llm.limits import KeyLimits
from streams.llm.settings import PoolSettings, TenantBudget
from streams.records.control import Limit

log = logging.getLogger(__name__)

TENANT = "tenant:"
"""Begins the subject of a change to a tenant's budget."""

POOL_FIELDS = tuple(
    field.name for field in fields(Limit) if field.name.endswith("_per_minute") or field.name == "concurrency"
)
TENANT_FIELDS = {"budget_tokens": "tokens", "budget_cost": "cost"}


def check_limit(limit: Limit) -> Limit:
    """Return a change that can be applied.

    Raises:
        InvalidInput: A value of zero or below, nothing to change, or a budget for a pool; says what would do.
    """
    tenant = limit.subject.startswith(TENANT)
    given = changes_of(limit)
    what = f"a change to {limit.subject!r}"
    if not limit.subject or limit.subject == TENANT:
        raise InvalidInput("a change to limits names a pool, a key of it ('fast/1'), or 'tenant:' and a tenant")
    wrong = [name for name in given if (name in TENANT_FIELDS) != tenant]
    if wrong:
        own = ", ".join(TENANT_FIELDS if tenant else POOL_FIELDS)
        raise InvalidInput(f"{what} has {', '.join(wrong)}; a {'tenant' if tenant else 'pool'} has {own}")
    if not given:
        raise InvalidInput(f"{what} changes nothing; give a limit, or take the last change back")
    for name, value in given.items():
        if not (value > 0 and math.isfinite(value)):
            raise InvalidInput(
                f"{name} of {limit.subject!r} must be above 0 and finite, got {value:g}; to stop the calls of a pool "
                "pause its agents, to have no limit configure none"
            )
    return limit


def changes_of(limit: Limit) -> dict[str, Any]:
    """Return the numbers that a record changes, by field."""
    found = {name: getattr(limit, name) for name in (*POOL_FIELDS, *TENANT_FIELDS)}
    return {name: value for name, value in found.items() if value is not None}


class LiveLimits:
    """What holds now.

    Args:
        pools: As configured, by name.
        keys: How many keys each of them has.
        budgets: As configured, by tenant; `*` is for those that are not named.
        configure: Told pool, index of the key and its limits when they have changed.
    """

    def __init__(
        self,
        pools: Mapping[str, PoolSettings],
        keys: Mapping[str, int],
        budgets: Mapping[str, TenantBudget],
        configure: Callable[[str, int, KeyLimits], None],
    ) -> None:
        self._pools = dict(pools)
        self._keys = dict(keys)
        self._budgets = dict(budgets)
        self._configured = dict(budgets)
        self._configure = configure
        self._changes: dict[str, Limit] = {}

    def put(self, subject: str, limit: Limit | None) -> None:
        """Follow a record of the topic; None for a tombstone."""
        if limit is not None:
            try:
                check_limit(limit)
            except InvalidInput as error:
                log.error("limits set by %s are ignored: %s", limit.changed_by, error)
                return
            self._changes[subject] = limit
        elif self._changes.pop(subject, None) is None:
            return
        if subject.startswith(TENANT):
            self._change_budget(subject.removeprefix(TENANT), limit)
        elif (pool := self._pool_of(subject)) is not None:
            self._change_pool(pool, subject, limit)
        # A pool or key that is not here may be another process's.

    def changes_to(self, pool: str) -> list[Limit]:
        """Return the changes that hold for a pool and its keys; none where all is as configured."""
        return [change for subject, change in sorted(self._changes.items()) if self._pool_of(subject) == pool]

    def budget_of(self, tenant: str) -> TenantBudget | None:
        """Return what a tenant may use in a window; None for no bound."""
        return self._budgets.get(tenant) or self._budgets.get("*")

    def _pool_of(self, subject: str) -> str | None:
        """Return the pool that a subject is, or is a key of; None where it is not here."""
        if subject in self._pools:
            return subject
        pool, _, number = subject.rpartition("/")
        return pool if number.isdecimal() and 1 <= int(number) <= self._keys.get(pool, 0) else None

    def _change_pool(self, pool: str, subject: str, limit: Limit | None) -> None:
        _tell(f"limits of {'each key of ' if subject == pool else 'key '}{subject!r}", limit)
        for index in range(self._keys[pool]):
            changes: dict[str, Any] = {}
            for level in (pool, f"{pool}/{index + 1}"):
                if (change := self._changes.get(level)) is not None:
                    changes |= changes_of(change)
            self._configure(pool, index, self._pools[pool].model_copy(update=changes).key_limits())

    def _change_budget(self, tenant: str, limit: Limit | None) -> None:
        if limit is None:
            self._budgets.pop(tenant, None)
            if tenant in self._configured:
                self._budgets[tenant] = self._configured[tenant]
        else:
            configured = self._configured.get(tenant, TenantBudget())
            update = {TENANT_FIELDS[name]: value for name, value in changes_of(limit).items()}
            self._budgets[tenant] = configured.model_copy(update=update)
        _tell(f"budget of tenant {tenant!r}", limit)


def _tell(what: str, limit: Limit | None) -> None:
    if limit is None:
        log.warning("%s: as configured again", what)
    else:
        said = ", ".join(f"{name} {value:,.12g}" for name, value in changes_of(limit).items())
        log.warning("%s: %s, set by %s: %s", what, said, limit.changed_by, limit.reason)
