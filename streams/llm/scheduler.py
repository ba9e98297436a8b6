"""Which held request goes next, on which key, and when: the scheduler of one pool. Pure.

The order is the fair queue's; what can start now is the keys' buckets'. A request whose turn it is may be too big for
what the buckets hold at the moment. Then others that fit go past it, but only as many tokens as it asks for itself
(backfilling with a bound): so a big one holds up the small ones as little as can be, its wait is at most doubled, and
no size starves. After that its key is kept free for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from streams.llm.bucket import NeverFits
from streams.llm.fair_queue import FairQueue, Held
from streams.llm.key_buckets import KeyBuckets, Reservation
from streams.llm.limits import KeyLimits, Part
from streams.llm.usage import Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """What should be sent now.

    Attributes:
        key: Index of the key that can take it.
        past: The request whose turn it is, when this one goes past it.
    """

    held: Held[T]
    key: int
    past: Held[T] | None = None


@dataclass(frozen=True, slots=True)
class Grant(Generic[T]):
    """A request that may be sent, with the room that was taken for it. Settle or cancel it once."""

    held: Held[T]
    key: int
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Leaver(Generic[T]):
    """A request that left without being sent: its deadline has passed, or (*problem*) no key will ever take it."""

    held: Held[T]
    problem: NeverFits | None = None


class Scheduler(Generic[T]):
    """Decides for one pool.

    Args:
        keys: The buckets of its keys.
        weights: Of tenants, see `FairQueue`.
    """

    def __init__(self, keys: Sequence[KeyBuckets], weights: Mapping[str, float] | None = None) -> None:
        self.queue: FairQueue[T] = FairQueue(weights)
        self.keys = tuple(keys)
        self._out_until = [-math.inf] * len(self.keys)
        self._misfits: list[Leaver[T]] = []
        self._served: Counter[str] = Counter()
        self._running = 0

    def __len__(self) -> int:
        return len(self.queue)

    @property
    def running(self) -> int:
        """Requests granted and not yet settled."""
        return self._running

    def add(self, held: Held[T], now: float) -> None:
        """Hold a request until its turn.

        Raises:
            NeverFits: It is larger than what any key can take at once.
        """
        if (problem := self._misfit(held.estimate)) is not None:
            raise problem
        self.queue.add(held, now)

    def choose(self, now: float) -> Choice[T] | float:
        """Return what should be sent now, or the time at which to ask again.

        Infinite when only the end of a call or another request changes anything. Choosing takes nothing: `take` does.
        """
        wait, past, kept = math.inf, None, -1
        for held in self.queue.heads():
            index, at = self._first_key(held.estimate, now, kept)
            if at <= now:
                return Choice(held, index, past)
            if index < 0 and (problem := self._misfit(held.estimate)) is not None:
                # A key's limits have shrunk meanwhile. What stands behind it in its line is looked at in a moment.
                self.queue.remove(held)
                self._misfits.append(Leaver(held, problem))
                wait = now
                continue
            wait = min(wait, at)
            if at == math.inf:
                if not self._has_slot(now):
                    break  # every call at once is taken, for requests of any size
                continue  # it is too large for the part of the limits that this process has at the moment
            if past is None:
                past = held
                if held.passed >= held.size:
                    kept = index
        return wait

    def take(self, choice: Choice[T], now: float) -> Grant[T]:
        """Reserve room for what was chosen, at the same *now*, and let it leave."""
        held = choice.held
        reservation = self.keys[choice.key].reserve(held.estimate, now)
        if reservation is None:
            raise ValueError(f"key {self.keys[choice.key].key_name!r} cannot take the request; choose again")
        if choice.past is not None:
            choice.past.passed += held.size
        self.queue.serve(held, first=choice.past is None)
        self._served[held.tenant] += held.size
        self._running += 1
        return Grant(held, choice.key, reservation)

    def settle(self, grant: Grant[T], used: Usage | None, now: float) -> None:
        """End a granted request with what it used; None when nobody knows, then the estimate stands."""
        self.keys[grant.key].settle(grant.reservation, used, now)
        self._running -= 1
        self.queue.settle(grant.held, (used or grant.held.estimate).total_tokens)

    def cancel(self, grant: Grant[T], now: float) -> None:
        """Give back a grant that was never sent."""
        self.keys[grant.key].cancel(grant.reservation, now)
        self._running -= 1
        self.queue.settle(grant.held, -1)

    def remove(self, held: Held[T]) -> None:
        """Forget a request that is held; nothing happens if it is not."""
        if held in self.queue:
            self.queue.remove(held)

    def leaving(self, now: float) -> list[Leaver[T]]:
        """Take out and return the requests that will not be sent from here any more."""
        leavers, self._misfits = self._misfits, []
        while self.queue.next_deadline() <= now and (held := self.queue.due()) is not None:
            self.queue.remove(held)
            leavers.append(Leaver(held))
        return leavers

    def take_out(self, key: int, until: float) -> None:
        """Use a key no more until then: the provider does not accept it."""
        self._out_until[key] = until

    def out_for_s(self, key: int, now: float) -> float:
        """Return the seconds for which a key is out; 0 while it is used."""
        return max(0.0, self._out_until[key] - now)

    def usable_keys(self, now: float) -> int:
        """Return how many keys are not taken out."""
        return sum(until <= now for until in self._out_until)

    def next_key_back(self, now: float) -> float:
        """Return when the next key that was taken out is tried again; infinite when none is out."""
        return min((until for until in self._out_until if until > now), default=math.inf)

    def change(self, limits: KeyLimits, now: float, key: int | None = None) -> None:
        """Apply other limits to every key, or to the one of that index."""
        for each in self.keys if key is None else (self.keys[key],):
            each.change(limits, now)

    def allot(self, parts: Sequence[Part], now: float) -> None:
        """Use only a part of each key's limits; the rest is used by other processes."""
        for key, part in zip(self.keys, parts, strict=True):
            key.allot(part, now)

    def take_served(self) -> Counter[str]:
        """Return the tokens sent since the last time, by tenant."""
        served, self._served = self._served, Counter()
        return served

    @property
    def limited(self) -> bool:
        """Whether the provider limits any key."""
        return any(key.limits != KeyLimits() for key in self.keys)

    def needs(self) -> float:
        """Return what share of a key's limits the requests at the head must be able to take at once, 0 without any."""
        return max((min(key.needs(held.estimate) for key in self.keys) for held in self.queue.heads()), default=0.0)

    def _has_slot(self, now: float) -> bool:
        return any(key.has_slot for key, until in zip(self.keys, self._out_until, strict=True) if until <= now)

    def _first_key(self, estimate: Usage, now: float, kept: int) -> tuple[int, float]:
        """Return the key that can take a request first, and when; the one with the fewest calls among equals."""
        best, best_at, best_running = -1, math.inf, 0
        for index, key in enumerate(self.keys):
            if index == kept or self._out_until[index] > now:
                continue
            try:
                at = key.starts_at(estimate, now)
            except NeverFits:
                continue
            if best < 0 or at < best_at or (at == best_at and key.running < best_running):
                best, best_at, best_running = index, at, key.running
        return best, best_at if best >= 0 else self.next_key_back(now)

    def _misfit(self, estimate: Usage) -> NeverFits | None:
        """Return why no key will ever take a request of that size; None if one will."""
        problem = None
        for key in self.keys:
            if (problem := key.fits(estimate)) is None:
                return None
        return problem
