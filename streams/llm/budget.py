"""What the scheduler of a pool grants to its dispatchers, so that together they never exceed the limits. Pure.

An allotment is a lease: a dispatcher may go by it for *lease_s* from when it sent the demand that it answers, and its
calls end within *call_s* after that. Here it counts from when that demand was heard, which is later, so clocks need not
agree. What was granted is in use until the dispatcher says that it goes by a later grant (released), or until
it expires; only what is in use by nobody is granted. (Gray and Cheriton, "Leases", SOSP 1989.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from streams.llm.fair_shares import fair_shares
from streams.llm.key_turns import Claim, KeyDivision, KeySize
from streams.llm.limits import WHOLE, Part
from streams.records.allotments import LlmAllotments, LlmDemand

HORIZON_S = 2.0
"""Seconds of work that shares are divided by: what waits now counts against what was served in this time."""

HEADROOM = 4.0
"""How much more than it does a pool is taken to be able to do while nobody waits."""

STEADY = 0.02
STEADY_OF_SHARE = 0.15
"""Shares stay as they are until one should change by more: each change costs the time until it is known."""

Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """How long an allotment is valid.

    Attributes:
        lease_s: From when the demand that it answers was sent.
        call_s: How much longer its calls may go on.
    """

    lease_s: float
    call_s: float


@dataclass(slots=True)
class _Grant:
    number: int
    parts: Parts
    until: float
    calls_until: float


@dataclass(slots=True)
class _Holder:
    """A dispatcher as the scheduler knows it; *grants* are those that it may go by, the latest at the end."""

    heard_at: float = -math.inf
    demand: LlmDemand | None = None
    rate: dict[str, float] = field(default_factory=dict)
    grants: list[_Grant] = field(default_factory=list)

    def in_use(self, keys: int, now: float) -> Parts:
        """Return the most that it may be using of each key."""
        parts = []
        for index in range(keys):
            rate = burst = 0.0
            slots: int | None = 0
            for grant in self.grants:
                part = grant.parts[index]
                if grant.until > now:
                    rate, burst = max(rate, part.rate), max(burst, part.burst)
                if grant.calls_until > now:
                    slots = None if slots is None or part.slots is None else max(slots, part.slots)
            if slots is not None and self.demand is not None and index < len(self.demand.running) and self.grants:
                slots = max(slots, self.demand.running[index])
            parts.append(Part(rate, burst, slots))
        return tuple(parts)


class Budget:
    """The allotments of one pool, while this process is its scheduler.

    Args:
        pool: Its name.
        keys: Its keys.
        terms: For what is granted from now on.
        weights: Of tenants that count for more or less than 1.
    """

    def __init__(
        self, pool: str, keys: Sequence[KeySize], terms: Terms, weights: Mapping[str, float] | None = None
    ) -> None:
        self._pool = pool
        self._keys = tuple(keys)
        self._terms = terms
        self._weights = weights
        self._division = KeyDivision(self._keys)
        self._holders: dict[str, _Holder] = {}
        self._shares: dict[str, float] = {}
        self._number = 0

    def set_keys(self, keys: Sequence[KeySize]) -> None:
        """Divide what the keys allow now; there are as many as before."""
        self._keys = tuple(keys)
        self._division.keys = self._keys

    @property
    def number(self) -> int:
        """Of the latest allotments."""
        return self._number

    def resume(self, last: LlmAllotments, age_s: float, now: float) -> None:
        """Go on from what an earlier scheduler granted last.

        Args:
            age_s: Seconds that have passed since for certain; 0 where that is not known.
        """
        self._number = max(self._number, last.number)
        terms = Terms(max(last.lease_s, self._terms.lease_s), max(last.call_s, self._terms.call_s))
        until = now - max(0.0, age_s) + terms.lease_s
        for index, name in enumerate(last.holders):
            parts = unpack(last.in_use, last.keys, index, len(self._keys))
            self._holders[name] = _Holder(grants=[_Grant(last.number, parts, until, until + terms.call_s)])

    def hear(self, demand: LlmDemand, now: float) -> None:
        """Take note of what a dispatcher has to do, and of what it goes by."""
        holder = self._holders.setdefault(demand.holder, _Holder())
        if holder.demand is not None and demand.number <= holder.demand.number:
            return
        passed = max(now - holder.heard_at, 0.05) if holder.heard_at > -math.inf else 1.0
        fresh = math.exp(-passed / HORIZON_S)
        for tenant in holder.rate.keys() | demand.served.keys():
            holder.rate[tenant] = holder.rate.get(tenant, 0.0) * fresh + demand.served.get(tenant, 0)
        holder.rate = {tenant: tokens for tenant, tokens in holder.rate.items() if tokens >= 1}
        holder.demand, holder.heard_at = demand, now
        holder.grants = _from(holder.grants, demand.applied)
        if demand.leaving:
            calls_until = max((grant.calls_until for grant in holder.grants), default=now)
            parts = tuple(Part(0.0, 0.0, slots) for slots in demand.running)
            holder.grants = [_Grant(demand.applied, parts, now, calls_until)] if any(demand.running) else []

    def grant(self, now: float, machine: str, at_s: float) -> tuple[LlmAllotments, bool]:
        """Return the allotments from now on, and whether anybody's changed; they hold from this call on.

        Args:
            machine: Which machine *at_s* was read on; see `LlmAllotments`.
        """
        self._forget(now)
        alive = {
            name: holder.demand
            for name, holder in self._holders.items()
            if holder.demand is not None and not holder.demand.leaving and holder.heard_at + self._terms.lease_s > now
        }
        wanted = self._division.divide(self._claims(alive), now)
        self._number += 1
        changed = self._fit(wanted, now)
        return LlmAllotments(
            self._pool,
            self._number,
            self._terms.lease_s,
            self._terms.call_s,
            len(self._keys),
            tuple(self._holders),
            tuple(alive[name].number if name in alive else 0 for name in self._holders),
            pack(holder.grants[-1].parts for holder in self._holders.values()),
            pack(holder.in_use(len(self._keys), now) for holder in self._holders.values()),
            machine,
            at_s,
        ), changed

    def _forget(self, now: float) -> None:
        for name, holder in tuple(self._holders.items()):
            latest = holder.grants[-1:]
            holder.grants = [grant for grant in holder.grants if grant.calls_until > now]
            if not holder.grants:
                if holder.heard_at + self._terms.lease_s <= now or (holder.demand and holder.demand.leaving):
                    del self._holders[name]
                else:
                    holder.grants = latest

    def _claims(self, alive: Mapping[str, LlmDemand]) -> dict[str, Claim]:
        served = {name: self._holders[name].rate for name in alive}
        wanted: dict[str, dict[str, float]] = {}
        for name, demand in alive.items():
            tenants = wanted[name] = dict(served[name])
            for tenant, tokens in demand.waiting.items():
                tenants[tenant] = tenants.get(tenant, 0.0) + tokens
        waits = any(demand.waiting for demand in alive.values())
        capacity = sum(sum(tenants.values()) for tenants in served.values()) * (1.0 if waits else HEADROOM)
        self._steady(fair_shares(wanted, capacity, self._weights))
        return {
            name: Claim(self._shares[name], min(1.0, demand.need), bool(demand.waiting) or any(demand.running))
            for name, demand in alive.items()
        }

    def _steady(self, ideal: dict[str, float]) -> None:
        """Go over to the shares that should be, when they differ by enough."""
        now = self._shares
        if now.keys() != ideal.keys() or any(
            abs(ideal[name] - now[name]) > max(STEADY, STEADY_OF_SHARE * now[name]) for name in ideal
        ):
            self._shares = ideal

    def _fit(self, wanted: Mapping[str, Parts], now: float) -> bool:
        """Grant what is wanted as far as nobody else may be using it; return whether that is new for anybody."""
        changed = False
        free = [_Free(key.slots) for key in self._keys]
        for holder in self._holders.values():
            for one, part in zip(free, holder.in_use(len(self._keys), now), strict=True):
                one.take(part)
        for name, parts in wanted.items():
            holder = self._holders[name]
            mine = holder.in_use(len(self._keys), now)
            granted = tuple(one.grow(had, want) for one, had, want in zip(free, mine, parts, strict=True))
            until = holder.heard_at + self._terms.lease_s
            last = holder.grants[-1] if holder.grants else None
            if last is not None and last.parts == granted:
                last.until, last.calls_until = max(last.until, until), max(last.calls_until, until + self._terms.call_s)
            else:
                holder.grants.append(_Grant(self._number, granted, until, until + self._terms.call_s))
                changed = True
        return changed


class _Free:
    """What is left of a key beside all that may be in use."""

    def __init__(self, slots: int | None) -> None:
        self.rate = self.burst = 1.0
        self.slots = slots

    def take(self, part: Part) -> None:
        self.rate, self.burst = self.rate - part.rate, self.burst - part.burst
        if self.slots is not None:
            self.slots -= self.slots if part.slots is None else part.slots

    def grow(self, had: Part, want: Part) -> Part:
        """Return what may be granted to one that may be using *had*, and take what that is more."""
        rate, burst = min(want.rate, had.rate + max(0.0, self.rate)), min(want.burst, had.burst + max(0.0, self.burst))
        self.rate, self.burst = self.rate - max(0.0, rate - had.rate), self.burst - max(0.0, burst - had.burst)
        slots = want.slots
        if self.slots is not None and slots is not None:
            before = had.slots or 0
            slots = min(slots, before + max(0, self.slots))
            self.slots -= max(0, slots - before)
        return Part(rate, burst, slots)


def _from(grants: list[_Grant], applied: int) -> list[_Grant]:
    """Return the grant that one goes by who has applied everything up to *applied*, and those after it."""
    first = max((index for index, grant in enumerate(grants) if grant.number <= applied), default=0)
    return grants[first:]


def pack(each: Iterable[Parts]) -> tuple[float, ...]:
    """Return the parts of several dispatchers as a record has them."""
    flat: list[float] = []
    for parts in each:
        for part in parts:
            flat += (part.rate, part.burst, -1.0 if part.slots is None else float(part.slots))
    return tuple(flat)


def unpack(flat: Sequence[float], recorded: int, index: int, keys: int) -> Parts:
    """Return the parts that a record has of the dispatcher at *index*.

    Args:
        recorded: Keys that the record has.
        keys: Keys that the pool has here. Of those that the record does not know, all: who knows what is used of them.
    """
    mine = flat[index * recorded * 3 : (index + 1) * recorded * 3]
    triples = zip(mine[0::3], mine[1::3], mine[2::3], strict=True)
    parts = [Part(rate, burst, None if slots < 0 else int(slots)) for rate, burst, slots in triples]
    return tuple(parts[:keys] + [WHOLE] * (keys - len(parts)))
