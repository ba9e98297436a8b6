"""The verifier finds what it is for: every kind of fault, planted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streams.records.invocations import Result
from streams.records.state import StateDelta
from tests.chaos.app import Confirmation, Order, Posted, Receipt, link
from tests.chaos.evidence import Evidence
from tests.chaos.plan import idempotency_key, order
from tests.chaos.verifier import judge

SEED = 7


class Run:
    """What a flawless run of one customer's first orders leaves behind."""

    def __init__(self) -> None:
        numbers = [number for number in range(400) if order(SEED, number).customer == "customer-0"][:3]
        self.evidence = Evidence(epochs={0: [1, 1, 2]})
        self.sequence = 0
        spent, chain = 0, ""
        totals: dict[str, tuple[int, int]] = {}
        for position, number in enumerate(numbers):
            asked = order(SEED, number)
            identity = f"shop/{asked.customer}/{idempotency_key(number)}"
            step = f"{identity}#0.4"
            self.evidence.effects.append(step)
            self.evidence.claims.add(step)
            posting, total = totals.get(asked.ledger, (0, 0))
            self.post(asked, identity, posting, total)
            totals[asked.ledger] = (posting + 1, total + asked.cents)
            said = Confirmation(
                number=number,
                version="1",
                orders_before=position,
                chain_before=chain,
                price_cents=asked.cents,
                said=f"echo: order {number}",
                approved=asked.cents if asked.needs_approval else 0,
                receipt=Receipt(state="paid", key=step),
                posting=posting,
            )
            spent, chain = spent + asked.cents, link(chain, identity)
            self.add("shop", asked.customer, idempotency_key(number), said.model_dump_json())
            self.write(f"shop/{asked.customer}", "orders", str(position + 1))
            self.write(f"shop/{asked.customer}", "spent_cents", str(spent))
            self.write(f"shop/{asked.customer}", "chain", f'"{chain}"')
            self.write(f"shop/{asked.customer}", f"history#{position:012d}", f'"{identity}"')

    def post(self, asked: Order, identity: str, posting: int, total: int) -> None:
        said = Posted(position=posting, total_before=total, order=identity, cents=asked.cents)
        self.add("ledger", asked.ledger, f"child-{self.sequence}", said.model_dump_json())
        self.write(f"ledger/{asked.ledger}", "postings", str(posting + 1))
        self.write(f"ledger/{asked.ledger}", "total_cents", str(total + asked.cents))
        self.write(f"ledger/{asked.ledger}", f"entries#{posting:012d}", f'"{identity}"')

    def add(self, agent: str, key: str, idempotency_key: str, value: str) -> None:
        result = Result(agent, key, idempotency_key, "succeeded", value.encode())
        self.evidence.submitted.add(result.id)
        self.evidence.results.append(result)

    def write(self, owner: str, record: str, value: str) -> None:
        self.sequence += 1
        delta = StateDelta(owner, record, value.encode(), 1, self.sequence, owner, 0)
        self.evidence.deltas.append((0, delta))


def found(run: Run) -> dict[str, int]:
    """Return the figures that are not zero."""
    verdict = judge(run.evidence, set(), SEED)
    names = [name for name in verdict.__slots__ if name not in ("submitted", "results", "degraded", "found")]
    return {name: getattr(verdict, name) for name in names if getattr(verdict, name)}


@pytest.fixture
def flawless() -> Run:
    return Run()


def test_a_flawless_run_passes(flawless: Run) -> None:
    assert judge(flawless.evidence, set(), SEED).passed


def test_an_order_that_was_accepted_and_has_no_result_is_lost(flawless: Run) -> None:
    assert judge(flawless.evidence, {"shop/customer-1/order-1"}, SEED).lost == 1


def test_a_second_result_is_a_duplicate_unless_it_says_so(flawless: Run) -> None:
    last = flawless.evidence.results[-1]
    flawless.evidence.results.append(replace(last, repeated=True))
    assert found(flawless) == {}
    flawless.evidence.results.append(last)
    assert found(flawless) == {"duplicates": 1}


def test_a_second_payment_is_found_also_under_another_step(flawless: Run) -> None:
    again = flawless.evidence.effects[0].replace("#0.4", "#1.9")
    flawless.evidence.effects.append(again)
    flawless.evidence.claims.add(again)
    assert found(flawless) == {"effects_twice": 1}


def test_a_payment_without_claim_and_a_receipt_without_payment_are_found(flawless: Run) -> None:
    flawless.evidence.claims.remove(flawless.evidence.effects[0])
    flawless.evidence.effects.pop(1)
    assert found(flawless) == {"unclaimed": 1, "effects_missing": 1}


def test_a_lost_update_is_found(flawless: Run) -> None:
    flawless.evidence.deltas = [entry for entry in flawless.evidence.deltas if entry[1].record != "spent_cents"]
    assert found(flawless) == {"state_mismatches": 1}


def test_results_out_of_order_are_found(flawless: Run) -> None:
    flawless.evidence.results.reverse()
    assert found(flawless)["state_mismatches"] > 1


def test_a_write_of_an_owner_that_was_replaced_is_found(flawless: Run) -> None:
    number, last = flawless.evidence.deltas[-1]
    flawless.evidence.deltas[-2:] = [(number, replace(flawless.evidence.deltas[-2][1], epoch=2)), (number, last)]
    flawless.evidence.epochs[0] += [1]
    assert found(flawless) == {"late_writes": 2}


def test_what_is_still_open_or_set_aside_is_found(flawless: Run) -> None:
    flawless.evidence.open_journals.append("0: shop/customer-1/order-1")
    flawless.evidence.dead_letters.append("0@0")
    assert found(flawless) == {"journals_left": 1, "dead_letters": 1}
