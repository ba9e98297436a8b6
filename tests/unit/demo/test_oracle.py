import pytest

from streams.demo.accounts import Change, World
from streams.demo.domain import Action, Decision, Dispute, Order, Status
from streams.demo.oracle import Ledger, Refund, Settled, doubled, judge

WORLD = World(seed=0, started_at=0.0)
ORDERS = [WORLD.order(f"ord-{i}") for i in range(99)]
GOOD = next(order for order in ORDERS if order.refundable)
BAD = next(order for order in ORDERS if not order.refundable)
CHANGES = (
    Change("cust-1", 1, "active", 0.0),
    Change("cust-1", 2, "frozen", 10.0),
    Change("cust-1", 3, "active", 20.0),
)
PAID = Refund(customer="cust-1", order=GOOD.id, cents=GOOD.cents, at=5.0)
PAID_BAD = Refund(customer="cust-1", order=BAD.id, cents=BAD.cents, at=5.0)


def ledger(*refunds: Refund) -> Ledger:
    return Ledger(read_at=100.0, world=WORLD, changes=CHANGES, refunds=refunds)


def settled(
    action: Action = "refund",
    status: Status = "active",
    version: int = 1,
    *,
    order: Order = GOOD,
    degraded: bool = False,
    submitted_at: float = 4.0,
    finished_at: float = 6.0,
) -> Settled:
    decision = Decision(action=action, reason="", status=status, status_version=version)
    dispute = Dispute(customer="cust-1", order=order.id)
    return Settled("dispute/cust-1/x", dispute, decision, degraded, submitted_at, finished_at)


def faults(one: Settled, *refunds: Refund) -> list[str]:
    return [wrong.fault for wrong in judge(ledger(*refunds), [one])]


def test_a_right_decision_has_no_fault():
    assert faults(settled(), PAID) == []
    assert faults(settled("reject", order=BAD)) == []
    assert faults(settled("escalate", "frozen", 2, submitted_at=9, finished_at=11)) == []


def test_a_status_that_ended_before_the_invocation_began_is_stale():
    (wrong,) = judge(ledger(PAID), [settled(submitted_at=10.0, finished_at=12)])
    assert wrong.fault == "stale"
    assert wrong.detail == (
        "version 1 (active) was current from -inf to 10.000, the invocation ran from 10.000 to 12.000"
    )


def test_a_status_that_was_current_for_a_moment_of_it_is_not():
    assert faults(settled(submitted_at=9.999, finished_at=30), PAID) == []
    assert faults(settled(version=3, submitted_at=12, finished_at=20.0), PAID) == []


def test_a_status_from_the_future_or_of_another_version_is_stale():
    assert faults(settled(version=3, finished_at=19.0), PAID) == ["stale"]
    assert faults(settled(version=9), PAID) == ["stale"]
    assert faults(settled("escalate", "frozen", 1)) == ["stale"]


def test_an_unknown_status_needs_a_fallback():
    assert faults(settled("escalate", "unknown", 0)) == ["stale"]
    assert faults(settled("escalate", "unknown", 0, degraded=True)) == []


def test_an_action_must_follow_from_status_and_order():
    assert faults(settled("reject")) == ["rule"]
    assert faults(settled("refund", order=BAD), PAID_BAD) == ["rule"]
    assert faults(settled("escalate", degraded=True)) == []


def test_refunds_are_compared_with_the_ledger():
    assert faults(settled()) == ["refund-missing"]
    assert faults(settled(), PAID, PAID) == ["refund-twice"]
    assert faults(settled("reject", order=BAD), PAID_BAD) == ["refund-unclaimed"]
    assert faults(settled(), PAID.model_copy(update={"cents": 1})) == ["refund-amount"]


def test_an_unconfirmed_refund_may_have_happened_once():
    assert faults(settled("escalate", degraded=True), PAID) == []
    assert faults(settled("escalate", degraded=True), PAID, PAID) == ["refund-twice"]


def test_doubled_refunds_are_counted_without_any_decision():
    assert doubled(ledger(PAID, PAID, PAID)) == 2
    assert doubled(ledger(PAID)) == 0


def test_a_ledger_that_was_read_too_early_is_refused():
    with pytest.raises(ValueError, match=r"finished 0\.500 s after the ledger was read"):
        judge(ledger(PAID), [settled(finished_at=100.5)])
