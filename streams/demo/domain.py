"""Records and rules of the payments demo: what a dispute is, what an agent may know, and what it must answer.

`ruling` is the one statement of the rules. The system prompt says them in words for a real model, the mock provider
answers by them, and the oracle judges by them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from streams.llm.messages import Message

Status = Literal["active", "frozen", "closed", "unknown"]
Action = Literal["refund", "reject", "escalate"]

CUSTOMERS = 200
"""Customers among whom disputes are spread: few enough that each has several while its status changes."""

SYSTEM = """\
You settle payment disputes. The user message is JSON: the dispute, the account's status and the orders.
- Account active and the disputed order refundable: call the tool `refund` once with the order's cents. If its receipt
  says "refunded", answer with action "refund"; if it says anything else, answer with action "escalate".
- Account active and the order not refundable, or account closed: action "reject".
- Account frozen, or status unknown, or the order not listed: action "escalate".
In every answer repeat the status and status_version that you were given, and give a short reason."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Dispute(_Record):
    """A customer's complaint about one order. Each order is disputed once, so a second refund of it is a fault."""

    customer: str = Field(min_length=1)
    order: str = Field(min_length=1)
    text: str = ""


class AccountStatus(_Record):
    """Status of an account; *version* counts its changes from 1, and is 0 where nobody could say."""

    status: Status
    version: int = 0


class Order(_Record):
    """One order of a customer."""

    id: str
    cents: int
    refundable: bool


class Orders(_Record):
    """The disputed order, among others of the customer. Empty where nobody could say."""

    orders: tuple[Order, ...] = ()

    def find(self, order_id: str) -> Order | None:
        """Return the order of that ID."""
        return next((order for order in self.orders if order.id == order_id), None)


class Receipt(_Record):
    """What became of a refund; `unconfirmed` when it may or may not have happened."""

    state: Literal["refunded", "refused", "unconfirmed"]
    reason: str = ""


class Decision(_Record):
    """How a dispute ends, with the status that it was decided on."""

    action: Action
    reason: str
    status: Status
    status_version: int


class Case(_Record):
    """Everything that a model is told about a dispute; the content of the user message."""

    dispute: Dispute
    account: AccountStatus
    orders: Orders


def conversation(dispute: Dispute, account: AccountStatus, orders: Orders) -> list[Message]:
    """Return the messages that put a case before a model."""
    case = Case(dispute=dispute, account=account, orders=orders)
    return [Message(role="system", content=SYSTEM), Message(role="user", content=case.model_dump_json())]


def ruling(account: AccountStatus, order: Order | None) -> Action:
    """Return the action that the rules demand, before a refund has been tried."""
    if account.status in ("frozen", "unknown"):
        return "escalate"
    if account.status == "closed":
        return "reject"
    if order is None:
        return "escalate"
    return "refund" if order.refundable else "reject"


_TEXTS = (
    "I was charged twice for this order.",
    "The parcel never arrived.",
    "I returned the goods two weeks ago and heard nothing.",
    "I do not recognise this payment.",
    "The amount is higher than what was agreed.",
)


def disputes(count: int, seed: int = 0) -> Iterator[Dispute]:
    """Yield *count* disputes over about 200 customers; the same seed yields the same disputes."""
    chance = random.Random(f"disputes/{seed}")
    for number in range(count):
        yield Dispute(
            customer=f"cust-{chance.randrange(CUSTOMERS):03}",
            order=f"ord-{seed}-{number:06}",
            text=chance.choice(_TEXTS),
        )
