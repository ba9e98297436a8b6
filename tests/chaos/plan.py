"""What is ordered: a function of seed and number, so that a client that was killed can say the same thing again."""

from __future__ import annotations

from random import Random

from tests.chaos.app import Order

CUSTOMERS = 32
LEDGERS = 6
APPROVAL_SHARE = 0.15


def order(seed: int, number: int) -> Order:
    """Return the order of that number."""
    random = Random(f"{seed}/{number}")
    return Order(
        number=number,
        customer=f"customer-{random.randrange(CUSTOMERS)}",
        cents=random.randrange(1, 10_000),
        ledger=f"ledger-{random.randrange(LEDGERS)}",
        needs_approval=random.random() < APPROVAL_SHARE,
    )


def idempotency_key(number: int) -> str:
    """Return the key under which an order is submitted, each time."""
    return f"order-{number}"
