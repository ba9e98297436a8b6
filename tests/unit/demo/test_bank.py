from streams.demo.accounts import World
from streams.demo.bank import Bank, RefundRequest

WORLD = World(seed=1, started_at=0.0, change_every_s=10.0)


def test_statuses_are_those_of_the_world_at_the_time():
    now = 0.0
    bank = Bank(WORLD, clock=lambda: now)
    for now in (0.0, 3.0, 50.0, 1000.0):
        change = WORLD.status_at("cust-1", now)
        assert (bank.status("cust-1").status, bank.status("cust-1").version) == (change.status, change.version)
    assert list(bank.ledger().changes) == WORLD.changes_until("cust-1", 1000.0)


def test_a_refund_that_is_asked_for_twice_happens_twice():
    bank = Bank(WORLD, clock=lambda: 7.0)
    request = RefundRequest(customer="cust-1", order="ord-1", cents=5, key="same")
    assert [bank.refund(request).state for _ in range(2)] == ["refunded", "refunded"]
    assert [(refund.order, refund.at) for refund in bank.ledger().refunds] == [("ord-1", 7.0)] * 2
