"""The verdict on a run: pure, and independent of the code that it judges.

It knows what the agents of `tests.chaos.app` do, and runs them again one by one, in the order of their results.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from streams.records.ids import split_invocation_id
from streams.records.invocations import Result
from tests.chaos.app import Confirmation, Posted, link
from tests.chaos.evidence import Evidence
from tests.chaos.plan import order


@dataclass(slots=True)
class Verdict:
    """What was found; every figure but the first three must be zero.

    Attributes:
        lost: Asked for, and without a result.
        duplicates: Results beyond the first of an invocation, other than those that say that they repeat it.
        effects_twice: Payments beyond the first of an invocation.
        effects_missing: Results that say "paid" without a payment.
        unclaimed: Payments that nobody had claimed before.
        state_mismatches: Places where state or results differ from a serial execution in the order of the results.
        late_writes: Records of an owner that another one had replaced already.
        failed: Results that are no success.
        journals_left: Live journal records although nothing is open any more.
        found: All of it in words.
    """

    submitted: int = 0
    results: int = 0
    degraded: int = 0
    lost: int = 0
    duplicates: int = 0
    effects_twice: int = 0
    effects_missing: int = 0
    unclaimed: int = 0
    state_mismatches: int = 0
    late_writes: int = 0
    failed: int = 0
    dead_letters: int = 0
    journals_left: int = 0
    found: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Nothing is wrong, and something was done."""
        return not self.found and self.results > 0


def judge(evidence: Evidence, accepted: set[str], seed: int) -> Verdict:
    """Return the verdict.

    Args:
        accepted: IDs that a client was told are durable.
        seed: Of the plan.
    """
    first = {result.id: result for result in reversed(evidence.results) if not result.repeated}
    counts = Counter(result.id for result in evidence.results if not result.repeated)
    submitted = evidence.submitted | accepted
    degraded = sum(result.degraded for result in first.values())
    verdict = Verdict(submitted=len(submitted), results=len(first), degraded=degraded)

    def wrong(figure: str, text: str, count: int = 1) -> None:
        setattr(verdict, figure, getattr(verdict, figure) + count)
        verdict.found.append(f"{figure}: {text}")

    for identity in sorted(submitted - counts.keys()):
        wrong("lost", identity)
    for identity, count in counts.items():
        if count > 1:
            wrong("duplicates", f"{identity} has {count} results", count - 1)
    for result in first.values():
        if result.status != "succeeded":
            wrong("failed", f"{result.id}: {result.status} {result.error_type}: {result.error_message}")
    for letter in evidence.dead_letters:
        wrong("dead_letters", letter)
    for key in evidence.open_journals:
        wrong("journals_left", key)
    _judge_effects(evidence, first, wrong)
    _judge_owners(evidence, wrong)
    _judge_state(evidence, seed, wrong)
    return verdict


def _judge_effects(evidence: Evidence, first: dict[str, Result], wrong: Any) -> None:
    paid = Counter(key.rpartition("#")[0] for key in evidence.effects)
    for identity, count in paid.items():
        if count > 1:
            wrong("effects_twice", f"{identity} was paid {count} times", count - 1)
    for key in evidence.effects:
        if key not in evidence.claims:
            wrong("unclaimed", key)
    for result in first.values():
        if result.agent == "shop" and result.status == "succeeded":
            receipt = _confirmation(result).receipt
            if receipt.state == "paid" and receipt.key not in evidence.effects:
                wrong("effects_missing", f"{result.id} says that {receipt.key!r} was paid")


def _judge_owners(evidence: Evidence, wrong: Any) -> None:
    for number, epochs in evidence.epochs.items():
        for before, after in pairwise(epochs):
            if after < before:
                wrong("late_writes", f"journal of shard {number}: epoch {after} after {before}")
    last: dict[int, tuple[int, int]] = {}
    for number, delta in evidence.deltas:
        place = (delta.epoch, delta.sequence)
        earlier = last.get(number, (0, 0))
        if delta.epoch < earlier[0] or delta.sequence <= earlier[1]:
            wrong("late_writes", f"state of shard {number}: {delta.owner} {delta.record} is {place} after {earlier}")
        last[number] = place


def _judge_state(evidence: Evidence, seed: int, wrong: Any) -> None:
    """Run every agent instance again, in the order of its results, and compare with what it has left."""
    expected: dict[str, dict[str, Any]] = defaultdict(dict)
    taken: set[str] = set()
    for result in evidence.results:
        if result.repeated or result.status != "succeeded" or result.id in taken:
            continue
        taken.add(result.id)
        owner = f"{result.agent}/{result.key}"
        problems = (_take_order if result.agent == "shop" else _post)(expected[owner], result, seed)
        for problem in problems:
            wrong("state_mismatches", f"{result.id}: {problem}")
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for _, delta in evidence.deltas:
        found[delta.owner][delta.record] = orjson.loads(delta.value or b"null")
    for owner in expected.keys() | found.keys():
        for record in expected[owner].keys() | found[owner].keys():
            serial, kept = expected[owner].get(record), found[owner].get(record)
            if serial != kept:
                wrong("state_mismatches", f"{owner} {record} is {kept!r}, a serial execution leaves {serial!r}")


def _take_order(state: dict[str, Any], result: Result, seed: int) -> list[str]:
    said = _confirmation(result)
    asked = order(seed, said.number)
    orders, chain = state.get("orders", 0), state.get("chain", "")
    problems = []
    for name, value, right in (
        ("orders_before", said.orders_before, orders),
        ("chain_before", said.chain_before, chain),
        ("key", result.key, asked.customer),
        ("approved", said.approved, asked.cents if asked.needs_approval else 0),
    ):
        if value != right:
            problems.append(f"{name} is {value!r}, a serial execution has {right!r}")
    if not result.degraded and (said.price_cents, said.said) != (asked.cents, f"echo: order {said.number}"):
        problems.append(f"not degraded, but price and answer are {said.price_cents} and {said.said!r}")
    if said.receipt.state == "paid":
        state["spent_cents"] = state.get("spent_cents", 0) + asked.cents
    state["orders"], state["chain"] = orders + 1, link(chain, result.id)
    state[f"history#{orders:012d}"] = result.id
    return problems


def _post(state: dict[str, Any], result: Result, seed: int) -> list[str]:
    said = Posted.model_validate_json(result.value or b"")
    postings, total = state.get("postings", 0), state.get("total_cents", 0)
    problems = []
    if (said.position, said.total_before) != (postings, total):
        problems.append(f"found {said.position} postings of {said.total_before}, serially {postings} of {total}")
    asked = order(seed, int(split_invocation_id(said.order)[2].rpartition("-")[2]))
    if (said.cents, result.key) != (asked.cents, asked.ledger):
        problems.append(f"posted {said.cents} to {result.key}, ordered were {asked.cents} to {asked.ledger}")
    state["postings"], state["total_cents"] = postings + 1, total + said.cents
    state[f"entries#{postings:012d}"] = said.order
    return problems


def _confirmation(result: Result) -> Confirmation:
    return Confirmation.model_validate_json(result.value or b"")
