"""How much a tenant may ask of this gateway: a token bucket each, told in RateLimit headers.

Headers follow draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` has quota and window, `RateLimit` what is
left and the seconds until it is whole again. The bucket is this process's: with several gateways behind one address,
divide the limit among them. Pure: time comes in as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from streams.gateway.problems import Problem, retry_after
from streams.gateway.settings import EVERYBODY, TenantLimit
from streams.llm.bucket import TokenBucket

WINDOW_S = 60
MAX_TENANTS = 10_000
"""Tenants whose buckets are kept; beyond it the one that came first is forgotten and starts afresh."""


class Allowances:
    """The buckets of the tenants that have a limit.

    Args:
        limits: By tenant; that of `*` holds, for each alone, for all that are not named.
    """

    def __init__(self, limits: Mapping[str, TenantLimit]) -> None:
        self._limits = dict(limits)
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, tenant: str, now: float) -> dict[str, str]:
        """Take one submission of *tenant*; return the headers that tell what is left, none without a limit.

        Args:
            now: Seconds of any clock that only grows.

        Raises:
            Problem: 429 with the seconds until there is room.
        """
        limit = self._limits.get(tenant, self._limits.get(EVERYBODY))
        if limit is None:
            return {}
        bucket = self._bucket(tenant, limit, now)
        admitted = bucket.reserve(1, now)
        whole_s = math.ceil((bucket.capacity - bucket.available(now)) / bucket.rate)
        headers = {
            "RateLimit-Policy": f'"tenant";q={limit.per_minute};w={WINDOW_S}',
            "RateLimit": f'"tenant";r={max(0, math.floor(bucket.available(now)))};t={whole_s}',
        }
        if not admitted:
            raise Problem(
                429,
                "TenantLimit",
                f"tenant {tenant!r} has used up its {limit.per_minute} submissions a minute (gateway.limits)",
                headers=headers | retry_after(bucket.ready_at(1, now) - now),
            )
        return headers

    def _bucket(self, tenant: str, limit: TenantLimit, now: float) -> TokenBucket:
        bucket = self._buckets.get(tenant)
        if bucket is None:
            if len(self._buckets) >= MAX_TENANTS:
                del self._buckets[next(iter(self._buckets))]
            capacity = limit.burst or max(1, limit.per_minute // 10)
            bucket = self._buckets[tenant] = TokenBucket(capacity, limit.per_minute / WINDOW_S, now, what="submissions")
        return bucket
