"""The world of the demo: which status an account has at which moment, and what an order is.

A pure function of a seed, a start and a time, so that every process that knows these agrees on it without talking.
Serving it, and recording refunds, is the bank's work.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from streams.demo.domain import Order, Orders, Status

_STATUSES: tuple[Status, ...] = ("active", "frozen", "closed")
_WEIGHTS = (0.7, 0.15, 0.15)


@dataclass(frozen=True, slots=True)
class Change:
    """An account's status from *valid_from* until its next change; versions count from 1."""

    customer: str
    version: int
    status: Status
    valid_from: float


@dataclass(frozen=True, slots=True)
class World:
    """Accounts and orders.

    Attributes:
        seed: The same seed gives the same world.
        started_at: Seconds since the epoch. Every account has its first status since then, and before.
        change_every_s: Mean time between two changes of one account.

    Raises:
        ValueError: *change_every_s* is not above 0.
    """

    seed: int
    started_at: float
    change_every_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.change_every_s > 0:
            raise ValueError(f"change_every_s must be above 0, got {self.change_every_s}")

    def schedule(self, customer: str) -> Iterator[Change]:
        """Yield every change of an account, first to last, without end."""
        chance = random.Random(f"{self.seed}/{customer}")
        status = chance.choices(_STATUSES, _WEIGHTS)[0]
        at, version = self.started_at, 1
        while True:
            yield Change(customer, version, status, at)
            at += chance.expovariate(1 / self.change_every_s)
            version += 1
            others = [(s, w) for s, w in zip(_STATUSES, _WEIGHTS, strict=True) if s != status]
            status = chance.choices([s for s, _ in others], [w for _, w in others])[0]

    def changes_until(self, customer: str, at: float) -> list[Change]:
        """Return the changes of an account up to *at*; the first one in any case."""
        first, *later = takewhile(lambda c: c.version == 1 or c.valid_from <= at, self.schedule(customer))
        return [first, *later]

    def status_at(self, customer: str, at: float) -> Change:
        """Return the status of an account at a time."""
        return self.changes_until(customer, at)[-1]

    def order(self, order_id: str) -> Order:
        """Return what an order is; any ID is one."""
        chance = random.Random(f"{self.seed}/order/{order_id}")
        return Order(id=order_id, cents=chance.randrange(500, 20_000), refundable=chance.random() < 0.8)

    def orders(self, customer: str, order_id: str) -> Orders:
        """Return the order asked for, between two others of the customer."""
        others = (f"{customer}-first", f"{customer}-latest")
        return Orders(orders=(self.order(others[0]), self.order(order_id), self.order(others[1])))
