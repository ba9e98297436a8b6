"""Allotments of a pool's limits to its dispatchers: the sum, the shares, the turns, and what the dead leave.

The world below is what the pure cores meet: messages late and lost, dispatchers that die, freeze and come back,
schedulers that follow each other. Its oracle adds up what everybody could be using.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from streams.llm.budget import Budget, Terms
from streams.llm.fair_shares import fair_shares, parts_here
from streams.llm.key_turns import Claim, KeyDivision, KeySize
from streams.llm.lease import Lease
from streams.llm.limits import NOTHING, Part
from streams.records.allotments import LlmAllotments, LlmDemand

TERMS = Terms(lease_s=5.0, call_s=10.0)


@dataclass
class Dispatcher:
    """A dispatcher with its own clock, which reads *ahead_s* more than the world's."""

    name: str
    keys: int
    ahead_s: float = 0.0
    waiting: dict[str, int] = field(default_factory=dict)
    need: float = 0.0
    lease: Lease = field(init=False)
    calls: list[tuple[int, float]] = field(default_factory=list)
    inbox: list[tuple[float, LlmAllotments]] = field(default_factory=list)
    frozen: bool = False
    gone: bool = False

    def __post_init__(self) -> None:
        self.lease = Lease(self.name, self.keys)

    def parts(self, now: float) -> tuple[Part, ...]:
        return self.lease.parts(now + self.ahead_s)

    def running(self, now: float) -> tuple[int, ...]:
        self.calls = [(key, ends) for key, ends in self.calls if ends > now]
        return tuple(sum(key == each for key, _ in self.calls) for each in range(self.keys))

    def demand(self, now: float, *, leaving: bool = False) -> LlmDemand:
        return LlmDemand(
            "fast", self.name, self.lease.ask(now + self.ahead_s), self.lease.applied, dict(self.waiting), {},
            self.running(now), self.need, leaving,
        )  # fmt: skip


class World:
    """Several dispatchers and one scheduler at a time, in steps of a tenth of a second."""

    def __init__(self, slots: tuple[int | None, ...], seed: int = 0, delay_s: float = 0.0, loss: float = 0.0) -> None:
        self.keys = tuple(KeySize(each, 10.0) for each in slots)
        self.chance = Random(seed)
        self.delay_s = delay_s
        self.loss = loss
        self.now = 1000.0
        self.dispatchers: dict[str, Dispatcher] = {}
        self.budget: Budget | None = Budget("fast", self.keys, TERMS)
        self.demands: list[tuple[float, LlmDemand]] = []
        self.log: list[LlmAllotments] = []

    def join(self, name: str, **fields) -> Dispatcher:
        one = self.dispatchers[name] = Dispatcher(name, len(self.keys), **fields)
        return one

    def take_over(self, *, same_machine: bool = False) -> None:
        """Another scheduler goes on from the log; what the old one has not written is nowhere."""
        self.budget = Budget("fast", self.keys, TERMS)
        if self.log:
            last = self.log[-1]
            self.budget.resume(last, self.now - last.at_s if same_machine else 0.0, self.now)

    def step(self) -> None:
        self.now += 0.1
        for one in self.dispatchers.values():
            if one.gone or one.frozen:
                continue
            while one.inbox and one.inbox[0][0] <= self.now:
                one.lease.take(one.inbox.pop(0)[1])
            for key, part in enumerate(one.parts(self.now)):
                most = 100 if part.slots is None else part.slots
                while one.waiting and one.running(self.now)[key] < most:
                    one.calls.append((key, self.now + self.chance.uniform(0.1, TERMS.call_s)))
            if self.chance.random() < 0.3 and self.chance.random() >= self.loss:
                self.demands.append((self.now + self._delay(), one.demand(self.now)))
        self.check()
        if self.budget is None:
            return
        while self.demands and self.demands[0][0] <= self.now:
            self.budget.hear(self.demands.pop(0)[1], self.now)
        allotments, _ = self.budget.grant(self.now, "here", self.now)
        self.log.append(allotments)
        for one in self.dispatchers.values():
            at = max(self.now + self._delay(), one.inbox[-1][0] if one.inbox else 0.0)
            one.inbox.append((at, allotments))

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.step()

    def check(self) -> None:
        for index, key in enumerate(self.keys):
            # A dead or frozen one is counted like the others: nobody can know that it sends nothing.
            parts = [one.parts(self.now)[index] for one in self.dispatchers.values()]
            assert sum(part.rate for part in parts) <= 1 + 1e-9
            assert sum(part.burst for part in parts) <= 1 + 1e-9
            if key.slots is not None:
                could = (
                    max(part.slots or 0, one.running(self.now)[index])
                    for part, one in zip(parts, self.dispatchers.values(), strict=True)
                )
                assert sum(could) <= key.slots

    def rates(self) -> dict[str, float]:
        return {name: round(one.parts(self.now)[0].rate, 2) for name, one in self.dispatchers.items()}

    def _delay(self) -> float:
        return self.chance.random() * self.delay_s


def test_one_dispatcher_has_everything_and_a_second_one_gets_its_half_when_the_first_has_let_go():
    world = World((20,))
    first = world.join("a", waiting={"t": 10_000})
    world.run(3)
    assert first.parts(world.now) == (Part(1.0, 1.0, 20),)
    world.join("b", waiting={"t": 10_000})
    world.run(3)
    assert world.rates() == {"a": 0.5, "b": 0.5}
    world.run(20)
    assert [one.parts(world.now)[0].slots for one in world.dispatchers.values()] == [10, 10]


def test_shares_follow_the_backlog():
    world = World((None,))
    busy, idle, third = (world.join(name, waiting={"t": 1000}) for name in "abc")
    world.run(3)
    assert world.rates() == {"a": 0.33, "b": 0.33, "c": 0.33}
    busy.waiting, idle.waiting, third.waiting = {"t": 9000}, {}, {"t": 3000}
    world.run(3)
    assert world.rates() == {"a": 0.75, "b": 0.0, "c": 0.25}
    busy.waiting = third.waiting = {}
    world.run(3)
    assert world.rates() == {"a": 0.33, "b": 0.33, "c": 0.33}


def test_what_a_dead_dispatcher_had_is_free_when_its_lease_is_over_and_its_slots_when_its_calls_are():
    world = World((10,))
    first, second = world.join("a", waiting={"t": 100}), world.join("b", waiting={"t": 100})
    world.run(30)
    first.gone = True
    world.run(4)
    assert world.rates()["b"] == 0.5
    world.run(2)
    assert (world.rates()["b"], second.parts(world.now)[0].slots) == (1.0, 5)
    world.run(10)
    assert second.parts(world.now)[0].slots == 10


def test_a_dispatcher_that_leaves_makes_room_at_once():
    world = World((10,))
    first, second = world.join("a", waiting={"t": 100}), world.join("b", waiting={"t": 100})
    world.run(30)
    assert world.budget
    first.gone = True
    first.calls.clear()
    first.lease.until = world.now
    world.budget.hear(first.demand(world.now, leaving=True), world.now)
    world.run(2)
    assert second.parts(world.now) == (Part(1.0, 1.0, 10),)


def test_a_frozen_dispatcher_wakes_without_an_allotment():
    world = World((10,))
    first, second = world.join("a", waiting={"t": 100}), world.join("b", waiting={"t": 100})
    world.run(30)
    first.frozen = True
    world.run(30)
    assert first.parts(world.now) == (NOTHING,)
    assert second.parts(world.now)[0].rate == 1.0
    first.frozen = False
    first.inbox.clear()
    world.step()
    assert first.parts(world.now) == (NOTHING,)
    world.run(20)
    assert world.rates() == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(("same_machine", "after_s"), [(False, 5.0), (True, 2.0)])
def test_the_next_scheduler_waits_for_what_the_one_before_may_have_granted(same_machine, after_s):
    world = World((None,))
    first = world.join("a", waiting={"t": 100})
    world.run(3)
    first.gone, world.budget = True, None
    world.run(3)
    second = world.join("b", waiting={"t": 100})
    world.take_over(same_machine=same_machine)
    world.run(after_s - 0.5)
    assert second.parts(world.now)[0].rate == 0
    world.run(1.5)
    assert second.parts(world.now)[0].rate == 1


@pytest.mark.parametrize("seed", range(40))
def test_the_sum_holds_whatever_is_late_lost_killed_frozen_or_taken_over(seed):
    chance = Random(seed)
    slots = tuple(chance.choice([None, 1, 2, 3, 20]) for _ in range(chance.randint(1, 3)))
    world = World(slots, seed, delay_s=chance.choice([0.0, 0.5, 3.0, 8.0]), loss=chance.choice([0.0, 0.3, 0.8]))
    for number in range(150):
        alive = [one for one in world.dispatchers.values() if not one.gone]
        match chance.randrange(12):
            case 0 if len(alive) < 4:
                world.join(f"d{number}", ahead_s=chance.uniform(-1e6, 1e6))
            case 1 if alive:
                chance.choice(alive).gone = chance.random() < 0.2
            case 2 if alive:
                one = chance.choice(alive)
                one.frozen = not one.frozen
            case 3:
                world.budget = None
            case 4 | 5 if world.budget is None:
                world.take_over(same_machine=chance.random() < 0.5)
            case 6 | 7 if alive:
                one = chance.choice(alive)
                one.waiting = {chance.choice("xyz"): chance.randrange(1, 10_000)} if chance.random() < 0.7 else {}
                one.need = chance.choice([0.0, 0.01, 0.3, 0.9, 1.0])
        world.run(chance.choice([0.1, 0.5, 2.0]))


def test_shares_are_those_of_the_tenants_not_of_their_backlog():
    wanted = {"a": {"loud": 90_000.0}, "b": {"quiet": 3_000.0}, "c": {"loud": 10_000.0, "quiet": 3_000.0}}
    shares = fair_shares(wanted, capacity=4_000)
    assert shares == pytest.approx({"a": 0.45, "b": 0.25, "c": 0.30})
    assert fair_shares(wanted, 4_000, {"loud": 3.0}) == pytest.approx({"a": 0.675, "b": 0.125, "c": 0.2})


def test_a_small_tenant_gets_all_it_wants_and_the_rest_is_free_for_whoever_gets_work():
    shares = fair_shares({"a": {"big": 1000.0}, "b": {"small": 100.0}, "c": {}}, capacity=2_000)
    assert shares == pytest.approx({"a": 0.5 + 0.15, "b": 0.05 + 0.15, "c": 0.15})


def test_one_slot_goes_round_among_those_that_have_work():
    division, had = KeyDivision([KeySize(1, 10.0)]), Counter[str]()
    claims = {name: Claim(0.33, 0.01, busy=True) for name in "abc"} | {"idle": Claim(0.01, 0.0, busy=False)}
    for tenth in range(600):
        for name, (part,) in division.divide(claims, tenth / 10).items():
            had[name] += part.slots or 0
            assert part.rate == (1.0 if part.slots else 0.0)
    assert had.total() == 600
    assert had["idle"] == 0
    assert min(had[name] for name in "abc") > 180


def test_slots_of_several_keys_are_divided_over_all_of_them():
    parts = KeyDivision([KeySize(4, 10.0)] * 3).divide({name: Claim(1 / 3, 0.0, busy=True) for name in "abc"}, 0.0)
    assert [sum(part.slots or 0 for part in each) for each in parts.values()] == [4, 4, 4]
    assert all(sum(each[key].slots or 0 for each in parts.values()) == 4 for key in range(3))


def test_each_can_take_its_largest_request_at_once_and_those_that_do_not_fit_beside_each_other_take_turns():
    division = KeyDivision([KeySize(None, 10.0)])
    parts = division.divide({"a": Claim(0.2, 0.6, busy=True), "b": Claim(0.8, 0.1, busy=True)}, 0.0)
    assert parts["a"][0].rate == pytest.approx(0.2)
    assert parts["a"][0].burst == pytest.approx(0.6 + 0.3 * 0.2)
    assert parts["b"][0].burst == pytest.approx(0.1 + 0.3 * 0.8)
    division = KeyDivision([KeySize(None, 10.0)])
    claims = {"a": Claim(0.5, 0.7, busy=True), "b": Claim(0.5, 0.6, busy=True)}
    turns = [next(n for n, (part,) in division.divide(claims, float(at)).items() if part.rate) for at in range(1, 100)]
    assert 35 < turns.count("a") < 65
    changes = [at for at in range(1, 99) if turns[at] != turns[at - 1]]
    assert min(b - a for a, b in itertools.pairwise(changes)) >= 8  # long enough to fill the bucket


def test_a_tenant_counts_everywhere_for_what_of_its_work_is_there():
    parts = parts_here({"both": 300, "here": 50, "hardly": 1}, [{"both": 100, "there": 7}, {"hardly": 9_999}])
    assert parts == {"both": 0.75, "hardly": 0.02}
