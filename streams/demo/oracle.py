"""Judges decisions against the accounts' statuses at their time, and refunds against the bank's ledger.

A decision is stale if the status that it was made on was at no moment between submit and finish the current one. It is
wrong by the rules if the action does not follow from that status and the order. A refund must be in the ledger exactly
once when it was claimed, and not at all when it was not, unless the result says that it is degraded: then the refund's
outcome was unknown to the agent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from streams.demo.accounts import Change, World
from streams.demo.domain import AccountStatus, Decision, Dispute, Order, ruling

Fault = Literal["stale", "rule", "refund-missing", "refund-twice", "refund-unclaimed", "refund-amount"]


class Refund(BaseModel):
    """A refund as the bank recorded it; *key* is the idempotency key that came with it, which the bank ignores."""

    model_config = ConfigDict(frozen=True)

    customer: str
    order: str
    cents: int
    key: str = ""
    at: float


class Ledger(BaseModel):
    """Everything that happened at the bank: status changes of every account that anyone asked for, and refunds."""

    model_config = ConfigDict(frozen=True)

    read_at: float
    world: World
    changes: tuple[Change, ...]
    refunds: tuple[Refund, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A dispute with the decision that came out; times are seconds since the epoch on the bank's machine.

    Attributes:
        degraded: A fallback was used on the way.
    """

    invocation_id: str
    dispute: Dispute
    decision: Decision
    degraded: bool
    submitted_at: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class Wrong:
    """A fault that the oracle found, with what it expected, in words."""

    invocation_id: str
    fault: Fault
    detail: str


def judge(ledger: Ledger, settled: Iterable[Settled]) -> list[Wrong]:
    """Return every fault in *settled*; empty means that all decisions are right.

    Args:
        ledger: Read after the last decision was made.
        settled: Decisions, each of another order.

    Raises:
        ValueError: the ledger was read before one of the decisions was finished.
    """
    histories: dict[str, list[Change]] = defaultdict(list)
    for change in ledger.changes:
        histories[change.customer].append(change)
    refunds: dict[str, list[Refund]] = defaultdict(list)
    for refund in ledger.refunds:
        refunds[refund.order].append(refund)
    found: list[Wrong] = []
    for one in settled:
        if one.finished_at > ledger.read_at:
            raise ValueError(
                f"{one.invocation_id} finished {one.finished_at - ledger.read_at:.3f} s after the ledger was read; "
                "read the ledger after the last result"
            )
        order = ledger.world.order(one.dispute.order)
        faults = [
            _staleness(sorted(histories[one.dispute.customer], key=lambda c: c.version), one),
            _rule(order, one),
            _refunds(refunds[one.dispute.order], order, one),
        ]
        found += [Wrong(one.invocation_id, *fault) for fault in faults if fault]
    return found


def doubled(ledger: Ledger) -> int:
    """Return how many refunds were made beyond the first of an order, whoever asked for them."""
    return len(ledger.refunds) - len({refund.order for refund in ledger.refunds})


def _staleness(history: list[Change], one: Settled) -> tuple[Fault, str] | None:
    seen = one.decision
    if seen.status == "unknown":
        return None if one.degraded else ("stale", "status unknown, yet no fallback was used")
    for change, following in zip(history, [*history[1:], None], strict=True):
        if change.version != seen.status_version:
            continue
        if change.status != seen.status:
            return "stale", f"version {change.version} was {change.status}, not {seen.status}"
        ended = following.valid_from if following else None
        began = change.valid_from if change.version > 1 else float("-inf")
        if began <= one.finished_at and (ended is None or ended > one.submitted_at):
            return None
        lived = f"from {began:.3f} to {ended:.3f}" if ended is not None else f"from {began:.3f}"
        return "stale", (
            f"version {change.version} ({change.status}) was current {lived}, "
            f"the invocation ran from {one.submitted_at:.3f} to {one.finished_at:.3f}"
        )
    return "stale", f"version {seen.status_version} does not exist"


def _rule(order: Order, one: Settled) -> tuple[Fault, str] | None:
    action = one.decision.action
    demanded = ruling(AccountStatus(status=one.decision.status, version=one.decision.status_version), order)
    if action == demanded or (one.degraded and action == "escalate"):
        return None
    return "rule", f"{action} where status {one.decision.status} and the order demand {demanded}"


def _refunds(made: list[Refund], order: Order, one: Settled) -> tuple[Fault, str] | None:
    claimed = one.decision.action == "refund"
    if len(made) > 1:
        return "refund-twice", f"order {one.dispute.order} was refunded {len(made)} times"
    if claimed and not made:
        return "refund-missing", f"order {one.dispute.order} was not refunded"
    if made and not claimed and not one.degraded:
        return "refund-unclaimed", f"order {one.dispute.order} was refunded, the decision says {one.decision.action}"
    if made and made[0].cents != order.cents:
        return "refund-amount", f"{made[0].cents} cents were refunded, the order was {order.cents}"
    return None
