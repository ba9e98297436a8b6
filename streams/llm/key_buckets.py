"""When may a call start on this API key, and what is left afterwards? All limits of one key, applied together.

Pure: no clock, no key (only its name). Which key a request goes to, and in what order requests go, is the scheduler's
decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from streams.llm.bucket import NeverFits, TokenBucket
from streams.llm.headers import RateHeaders
from streams.llm.limits import NOTHING, QUANTITIES, WHOLE, KeyLimits, Part, Quantity, amount_of
from streams.llm.usage import Usage

TRICKLE = 1e-9
"""Share of a limit that stands for none: a bucket must refill, however slowly."""

Follow = Literal["down", "both", "off"]
"""How provider headers act: only correct downwards, also raise a limit to what the provider states, or not at all."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for one call, taken from every bucket of a key and held until it is settled or cancelled.

    Attributes:
        number: Grows by one with each reservation of the key.
        estimate: What was reserved.
        at: The clock's time of the reservation.
        marks: For each bucket, its mark right after the take.
    """

    key_name: str
    number: int
    estimate: Usage
    at: float
    marks: tuple[tuple[Quantity, int], ...]


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """Fill of one bucket; *available* is negative when in debt."""

    quantity: Quantity
    available: float
    capacity: float
    per_minute: float


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What a key has left.

    Attributes:
        running: Calls that hold a reservation.
        cools_for_s: Seconds until the key may be used again after the provider sent it away.
        out_for_s: Seconds until the key is tried again after the provider did not accept it; 0 while it is in use.
    """

    key_name: str
    buckets: tuple[BucketStatus, ...]
    running: int
    concurrency: int | None
    cools_for_s: float
    out_for_s: float = 0.0


class KeyBuckets:
    """The buckets of one API key.

    Args:
        key_name: Name of the key in messages and status. Never the key itself.
        limits: What the provider allows.
        now: The clock's time, in seconds.
        full: Start with full buckets. False where the past is unknown: after a restart, or with a new allotment.
        follow: What provider headers may change.
        connections: Calls that may be open at once from here, whatever the provider allows; None for any number.
    """

    def __init__(
        self,
        key_name: str,
        limits: KeyLimits,
        now: float,
        *,
        full: bool = True,
        follow: Follow = "down",
        connections: int | None = None,
    ) -> None:
        self.key_name = key_name
        self._connections = connections
        self._limits = limits
        self._follow = follow
        self._part = WHOLE
        self._stated: dict[Quantity, float] = {}
        self._buckets = {q: self._bucket(q, now, full) for q in QUANTITIES if limits.of(q)}
        self._running: dict[int, Reservation] = {}
        self._number = 0
        self._cooled_at = self._cool_until = -math.inf

    @property
    def running(self) -> int:
        """Calls that hold a reservation."""
        return len(self._running)

    def starts_at(self, estimate: Usage, now: float) -> float:
        """Return the earliest time, not before *now*, at which a call could start if nothing else happens.

        Infinite when every concurrent call is taken (only the end of one of them changes that), or when the call is
        larger than the part of a limit that is used here.

        Raises:
            NeverFits: the call is larger than one of the limits allows at once.
        """
        ready = max(now, self._cooling_until(now))
        for quantity, bucket in self._buckets.items():
            amount = amount_of(quantity, estimate)
            if amount <= bucket.capacity:
                ready = max(ready, bucket.ready_at(amount, now))
            elif amount > (whole := self._shape(quantity)[0]):
                raise NeverFits(bucket.what, amount, whole)
            else:
                ready = math.inf
        return ready if self.has_slot else math.inf

    @property
    def limits(self) -> KeyLimits:
        """What the provider allows."""
        return self._limits

    @property
    def has_slot(self) -> bool:
        """Whether one more call may be open."""
        most = self._most_running
        return most is None or len(self._running) < most

    def fits(self, estimate: Usage) -> NeverFits | None:
        """Return why a call of that size can never start on this key; None if it can."""
        for quantity, bucket in self._buckets.items():
            if (amount := amount_of(quantity, estimate)) > (whole := self._shape(quantity)[0]):
                return NeverFits(bucket.what, amount, whole)
        return None

    def needs(self, estimate: Usage) -> float:
        """Return what share of this key's limits a call must be able to take at once; above 1 it never fits."""
        return max(
            (amount_of(quantity, estimate) / self._shape(quantity)[0] for quantity in self._buckets), default=0.0
        )

    def reserve(self, estimate: Usage, now: float) -> Reservation | None:
        """Take room for a call from every bucket, or from none and return None.

        Raises:
            NeverFits: the call is larger than one of the buckets.
        """
        if self.starts_at(estimate, now) > now:
            return None
        marks: list[tuple[Quantity, int]] = []
        for quantity, bucket in self._buckets.items():
            bucket.charge(amount_of(quantity, estimate), now)
            marks.append((quantity, bucket.mark))
        self._number += 1
        reservation = Reservation(self.key_name, self._number, estimate, now, tuple(marks))
        self._running[reservation.number] = reservation
        return reservation

    def settle(self, reservation: Reservation, used: Usage | None, now: float) -> None:
        """End a call: refund what it did not use, charge what it used beyond its estimate.

        Args:
            reservation: The call's reservation; each is settled or cancelled once.
            used: What the provider reported. None when nobody knows (a timeout): the estimate then stands.
            now: The clock's time.

        Raises:
            ValueError: the reservation is not open here.
        """
        self._end(reservation)
        if used is None:
            return
        for quantity, mark in reservation.marks:
            if bucket := self._buckets.get(quantity):
                unused = amount_of(quantity, reservation.estimate) - amount_of(quantity, used)
                if unused > 0:
                    bucket.refund(unused, now, since=mark)
                elif unused < 0:
                    bucket.charge(-unused, now)

    def cancel(self, reservation: Reservation, now: float) -> None:
        """Give everything back, the request included: the call was never sent.

        Raises:
            ValueError: the reservation is not open here.
        """
        self._end(reservation)
        for quantity, mark in reservation.marks:
            if bucket := self._buckets.get(quantity):
                bucket.refund(amount_of(quantity, reservation.estimate), now, since=mark)

    def cool_down(self, retry_after_s: float, now: float) -> None:
        """Start nothing for *retry_after_s* seconds: the provider refused a call (429)."""
        until = max(now + retry_after_s, self._cooling_until(now))
        self._cooled_at, self._cool_until = now, until

    def follow(self, headers: RateHeaders, reservation: Reservation, now: float) -> None:
        """Correct the buckets by what the provider said in answer to the call of *reservation*.

        What remained there, plus all that can have refilled since the call was made, bounds what remains now. That is
        an upper bound whatever the order in which calls arrived, so calls in flight are never counted twice.
        """
        if self._follow == "off":
            return
        for seen in headers.observations:
            bucket, limit = self._buckets.get(seen.quantity), self._limits.of(seen.quantity)
            if bucket is None or limit is None:
                continue
            if seen.limit is not None:
                stated = seen.limit if self._follow == "both" else min(seen.limit, limit.per_minute)
                if stated != self._stated.get(seen.quantity, limit.per_minute):
                    self._stated[seen.quantity] = stated
                    self._resize(seen.quantity, bucket, now)
            if seen.remaining is not None:
                # Others may send too, so all that the whole limit refills may have been added since.
                refill = self._shape(seen.quantity)[1]
                bucket.lower(seen.remaining + refill * max(0.0, now - reservation.at), now)

    def change(self, limits: KeyLimits, now: float) -> None:
        """Apply other limits from *now* on. A limit that is new starts empty: what was sent before is unknown."""
        old, self._limits, self._stated = self._buckets, limits, {}
        self._buckets = {}
        for quantity in QUANTITIES:
            if limits.of(quantity) is None:
                continue
            bucket = old.get(quantity)
            if bucket is None:
                bucket = self._bucket(quantity, now, full=False)
            else:
                self._resize(quantity, bucket, now)
            self._buckets[quantity] = bucket

    def allot(self, part: Part, now: float) -> None:
        """Use only a part of the limits from *now* on: other processes use the rest.

        What the buckets hold beyond the part is lost, and a part that grows starts with what was there: the tokens that
        make it larger must have been lost elsewhere.
        """
        if part == self._part:
            return
        self._part = part
        for quantity, bucket in self._buckets.items():
            self._resize(quantity, bucket, now)
            if part == NOTHING:
                bucket.lower(0.0, now)

    def status(self, now: float) -> KeyStatus:
        """Return the fill of every bucket at *now*."""
        return KeyStatus(
            self.key_name,
            tuple(BucketStatus(q, b.available(now), b.capacity, b.rate * 60) for q, b in self._buckets.items()),
            len(self._running),
            self._most_running,
            max(0.0, self._cooling_until(now) - now),
        )

    @property
    def _most_running(self) -> int | None:
        bounds = (self._limits.concurrency, self._part.slots, self._connections)
        return min((bound for bound in bounds if bound is not None), default=None)

    def _bucket(self, quantity: Quantity, now: float, full: bool) -> TokenBucket:
        what = f"{quantity.replace('_', ' ')} (key {self.key_name!r})"
        capacity, rate = self._parted(quantity)
        return TokenBucket(capacity, rate, now, level=None if full else 0.0, what=what)

    def _resize(self, quantity: Quantity, bucket: TokenBucket, now: float) -> None:
        bucket.resize(*self._parted(quantity), now)

    def _parted(self, quantity: Quantity) -> tuple[float, float]:
        """Return capacity and rate of the part that is used here."""
        capacity, rate = self._shape(quantity)
        return capacity * max(self._part.burst, TRICKLE), rate * max(self._part.rate, TRICKLE)

    def _shape(self, quantity: Quantity) -> tuple[float, float]:
        """Return capacity and rate of the whole limit, as the provider stated it last."""
        limit = self._limits.of(quantity)
        assert limit is not None
        stated = self._stated.get(quantity, limit.per_minute)
        burst = stated if limit.burst is None else limit.burst
        return min(burst, stated) if stated < limit.per_minute else burst, stated / 60.0

    def _cooling_until(self, now: float) -> float:
        # Further off than twice what was set means that the clock was put back: the wait starts again from there.
        length = max(0.0, self._cool_until - self._cooled_at) if self._cool_until > -math.inf else 0.0
        if self._cool_until - now > 2 * length:
            self._cooled_at, self._cool_until = now, now + length
        return self._cool_until

    def _end(self, reservation: Reservation) -> None:
        if self._running.get(reservation.number) is not reservation:
            raise ValueError(
                f"reservation {reservation.number} of key {reservation.key_name!r} is not open on key "
                f"{self.key_name!r}; each is settled or cancelled once, on its own key"
            )
        del self._running[reservation.number]
