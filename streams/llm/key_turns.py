"""How one key is divided among dispatchers that have their shares of it. Pure.

Rates follow the shares, calls at once do as far as they can be divided, and of what can be taken at once everybody gets
at least as much as the largest request that it holds. When not all of that fits (large requests, fewer calls at once
than dispatchers), they take turns, long enough for a bucket to fill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streams.llm.limits import NOTHING, Part

TURN_S = 2.0


@dataclass(frozen=True, slots=True)
class KeySize:
    """What there is to divide of a key.

    Attributes:
        slots: Calls open at once; None for no limit.
        fill_s: Seconds in which its slowest bucket fills.
    """

    slots: int | None
    fill_s: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What a dispatcher should have.

    Attributes:
        share: Of the pool, from 0 to 1.
        need: Share of a key's limits that its largest request takes at once.
        busy: It has work.
    """

    share: float
    need: float
    busy: bool


@dataclass(slots=True)
class _Turns:
    """Who uses a key, and until when nobody takes its place."""

    until: dict[str, float] = field(default_factory=dict)
    left_at: dict[str, float] = field(default_factory=dict)


class KeyDivision:
    """Divides the keys of a pool; remembers whose turn it is."""

    def __init__(self, keys: Sequence[KeySize]) -> None:
        self.keys = tuple(keys)
        self._turns = [_Turns() for _ in self.keys]

    def divide(self, claims: Mapping[str, Claim], now: float) -> dict[str, tuple[Part, ...]]:
        """Return the part of each key that each dispatcher should have, in all no more than the whole."""
        parts: dict[str, list[Part]] = {name: [] for name in claims}
        given = dict.fromkeys(claims, 0)
        carry = dict.fromkeys(claims, 0.0)
        for key, turns in zip(self.keys, self._turns, strict=True):
            users = self._users(key, turns, claims, given, now)
            total = sum(claims[name].share for name in users)
            needed = sum(claims[name].need for name in users)
            rates = {name: claims[name].share / total for name in users}
            slots = _divide_slots(key.slots, rates, carry)
            for name, claim in claims.items():
                if name not in rates:
                    parts[name].append(NOTHING)
                    continue
                given[name] += 1
                burst = claim.need + max(0.0, 1.0 - needed) * rates[name]
                parts[name].append(Part(rates[name], min(1.0, burst), slots.get(name)))
                if name not in turns.until:
                    turns.until[name] = now + TURN_S + claim.need * key.fill_s / rates[name]
        return {name: tuple(each) for name, each in parts.items()}

    def _users(
        self, key: KeySize, turns: _Turns, claims: Mapping[str, Claim], given: Mapping[str, int], now: float
    ) -> list[str]:
        """Return who uses a key now: all, unless their needs or its calls at once do not allow it."""

        def rank(name: str) -> tuple[bool, bool, float, float, str]:
            claim = claims[name]
            in_turn = claim.busy and turns.until.get(name, -math.inf) > now
            behind = turns.left_at.get(name, -math.inf)
            if name in turns.until:
                behind = now  # its turn is over: whoever waits goes first
            return not claim.busy, not in_turn, given[name] / claim.share, behind, name

        users: list[str] = []
        needed = 0.0
        for name in sorted(claims, key=rank):
            need = claims[name].need
            if (users and needed + need > 1.0) or (key.slots is not None and len(users) >= key.slots):
                continue
            users.append(name)
            needed += need
        for name in [name for name in turns.until if name not in users]:
            del turns.until[name]
            turns.left_at[name] = now
        turns.left_at = {name: at for name, at in turns.left_at.items() if name in claims and name not in users}
        return users


def _divide_slots(slots: int | None, rates: Mapping[str, float], carry: dict[str, float]) -> dict[str, int]:
    """Return whole numbers that are about in proportion, at least 1 each; what one key owes the next one gives."""
    if slots is None or not rates:
        return {}
    quotas = {name: slots * rate + carry[name] for name, rate in rates.items()}
    found = {name: max(1, math.floor(quota)) for name, quota in quotas.items()}
    while (over := sum(found.values()) - slots) != 0:
        names = [name for name in found if over < 0 or found[name] > 1]
        sign = 1 if over < 0 else -1
        name = max(names, key=lambda each: (sign * (quotas[each] - found[each]), each))
        found[name] += sign
    for name, quota in quotas.items():
        carry[name] = quota - found[name]
    return found
