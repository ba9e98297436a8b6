"""Which calls of an overflow lane wait for room."""

from streams.broker.parked import Parked


def test_a_lot_gets_its_calls_back_in_order_and_others_do_not_wait_for_it():
    parked = Parked(10)
    for offset, lot in enumerate(("dead", "dead", "quick", "dead", "quick")):
        parked.moved(lot)
        parked.park(lot, offset)
    assert parked.first({"quick"}.__contains__) == 2
    assert not parked.take("quick", 4)
    assert parked.take("quick", 2)
    assert parked.first({"quick"}.__contains__) == 4
    assert parked.first({"quick", "dead"}.__contains__) == 0
    assert parked.first(lambda lot: False) is None
    assert (len(parked), parked.holds("quick")) == (4, True)
    assert parked.take("quick", 4)
    assert not parked.holds("quick")


def test_a_call_is_taken_once():
    parked = Parked(10)
    parked.park("a", 7)
    assert parked.take("a", 7)
    assert not parked.take("a", 7)


def test_a_lot_waits_until_all_its_moved_calls_were_started():
    parked = Parked(10)
    parked.moved("a")
    parked.moved("a")
    parked.started("a")
    assert parked.waits("a")
    assert parked.waiting == 1
    parked.started("a")
    assert not parked.waits("a")
    assert parked.waiting == 0


def test_it_is_full_at_its_bound():
    parked = Parked(2)
    parked.park("a", 0)
    assert not parked.full
    parked.park("b", 1)
    assert parked.full
