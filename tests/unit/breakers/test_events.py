import logging

from streams.breakers import BreakerPolicy, closed
from streams.breakers.events import FLEET, LOCAL, log_transition, tell
from streams.breakers.machine import BreakerMachine
from streams.breakers.window import FAILED

POLICY = BreakerPolicy(window_calls=4, minimum_calls=4, jitter=0)


def test_an_event_says_what_why_and_by_which_figures():
    machine = BreakerMachine(POLICY, closed("tool:crm"), epoch=3)
    machine.record(0, 0, 0.5)
    changes = [machine.record(FAILED, 0, 0.5) for _ in range(3)]
    assert changes[-1] is not None
    assert tell(changes[-1], FLEET) == (
        "breaker tool:crm is open (was closed, fleet): 3 of 4 calls failed (failure_rate 0.5); "
        "generation 3.1, failure_rate 0.75, slow_rate 0.00 of 4 calls, opening 1 for 5.0 s"
    )


def test_an_order_says_by_whom():
    change = BreakerMachine(POLICY, closed("tool:crm")).force("forced-open", "ana", "incident 7", 0)
    assert change is not None
    assert tell(change, FLEET).endswith("incident 7; generation 0.1, by ana")


def test_phases_are_logged_as_warnings_and_leases_that_move_on_are_not(caplog):
    machine = BreakerMachine(POLICY, closed("tool:crm"))
    for _ in range(4):
        machine.record(FAILED, 0, 0.5)
    with caplog.at_level(logging.DEBUG, logger="streams.breakers.events"):
        for now in (5_000, 10_000):
            change = machine.tick(now)
            assert change is not None
            log_transition(change, LOCAL)
            log_transition(change, FLEET, here=True)
        forced = machine.force("forced-open", "ana", "incident 7", 0)
        assert forced is not None
        log_transition(forced, FLEET)
        log_transition(forced, FLEET, here=True)
    phase, lease = logging.WARNING, logging.DEBUG
    levels = [phase, phase, lease, lease, logging.INFO, phase]
    assert [record.levelno for record in caplog.records] == levels
