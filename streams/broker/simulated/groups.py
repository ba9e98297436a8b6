"""A consumer group of the simulated cluster: generations, eager rebalances, sessions, static membership.

Members do not send heartbeats one by one: a process that is killed or frozen stops being heard, and its session ends as
long after that as if its last heartbeat had been a random part of the interval before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from streams.broker.simulated.process import Change, Process
from streams.broker.simulated.timing import LOG_CONTEXT, Timing
from streams.errors import OwnershipLost

NO_GENERATION = -1


class Assignment(NamedTuple):
    """What a member is told at the end of a rebalance."""

    member_id: str
    generation: int
    partitions: frozenset[int]


class Member:
    """One member as its group knows it.

    Args:
        signal: Called when the member's next heartbeat would tell it to rejoin.
    """

    def __init__(self, member_id: str, instance_id: str | None, process: Process, signal: Callable[[], None]) -> None:
        self.member_id = member_id
        self.instance_id = instance_id
        self.process = process
        self.signal = signal
        self.joining: asyncio.Future[Assignment] | None = None
        self.session: asyncio.TimerHandle | None = None
        self.watcher: Callable[[Change], None] | None = None


class Group:
    """One group over the partitions of its anchor topic."""

    def __init__(self, name: str, partitions: int, timing: Timing, random: Random) -> None:
        self.name = name
        self.generation = 0
        self._partitions = partitions
        self._timing = timing
        self._random = random
        self._members: dict[str, Member] = {}
        self._assigned: dict[str, frozenset[int]] = {}
        self._rebalancing = False
        self._deadline: asyncio.TimerHandle | None = None
        self._joined = 0

    def join(
        self, member_id: str | None, instance_id: str | None, process: Process, signal: Callable[[], None]
    ) -> asyncio.Future[Assignment]:
        """Join, or rejoin as *member_id*; the future resolves when the rebalance ends."""
        answer: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        member = self._members.get(member_id) if member_id is not None else None
        if member is None:
            self._joined += 1
            member = Member(f"{process.name}-{self._joined}", instance_id, process, signal)
            seat = self._seat_of(instance_id)
            self._add(member)
            if seat is not None:
                # Static membership: the seat changes hands without a rebalance, and its old holder is fenced.
                self._drop(seat)
                self._assigned[member.member_id] = self._assigned.pop(seat.member_id, frozenset())
                self._later(seat)
                if not self._rebalancing:
                    self._answer(answer, member)
                    return answer
        member.joining = answer
        if not self._rebalancing:
            self._rebalance(member)
        self._maybe_complete()
        return answer

    def leave(self, member_id: str) -> None:
        """Leave; a static member keeps its seat until its session ends."""
        member = self._members.get(member_id)
        if member is None:
            return
        if member.instance_id is not None:
            self._silence(member)
            return
        self._remove(member)

    def check(self, member_id: str, generation: int) -> None:
        """Raise OwnershipLost unless *member_id* belongs to the current *generation*."""
        if member_id not in self._members or generation != self.generation:
            raise OwnershipLost(
                f"group {self.name!r} has moved on without member {member_id!r} (generation {generation}, now "
                f"{self.generation}); its partitions may have another owner"
            )

    def _seat_of(self, instance_id: str | None) -> Member | None:
        if instance_id is None:
            return None
        return next((m for m in self._members.values() if m.instance_id == instance_id), None)

    def _add(self, member: Member) -> None:
        self._members[member.member_id] = member

        def watcher(change: Change) -> None:
            if change == "thawed":
                if member.session is not None:
                    member.session.cancel()
                    member.session = None
            elif member.session is None:
                self._silence(member)

        member.watcher = watcher
        member.process.watch(watcher)
        if not member.process.running:
            # Its request arrived after its end.
            self._silence(member)

    def _drop(self, member: Member) -> None:
        del self._members[member.member_id]
        if member.watcher is not None:
            member.process.unwatch(member.watcher)
        if member.session is not None:
            member.session.cancel()
        if member.joining is not None:
            # Its request is answered with "unknown member" once it can hear that; it joins anew.
            answer, member.joining = member.joining, None
            _resolve(answer, Assignment(member.member_id, NO_GENERATION, frozenset()))

    def _silence(self, member: Member) -> None:
        """Nothing is heard of *member* any more: end its session in time."""
        timing = self._timing
        left_s = timing.session_timeout_s - self._random.random() * timing.heartbeat_s
        loop = asyncio.get_running_loop()
        member.session = loop.call_later(left_s, self._expire, member, context=LOG_CONTEXT)

    def _expire(self, member: Member) -> None:
        if self._members.get(member.member_id) is member:
            self._remove(member)

    def _remove(self, member: Member) -> None:
        self._drop(member)
        self._assigned.pop(member.member_id, None)
        # A zombie learns of it with its first heartbeat.
        self._later(member)
        if self._members and not self._rebalancing:
            self._rebalance(None)
        self._maybe_complete()

    def _rebalance(self, by: Member | None) -> None:
        """Ask everyone to rejoin."""
        self._rebalancing = True
        for member in self._members.values():
            if member is not by:
                self._later(member)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._timing.rebalance_timeout_s, self._give_up, context=LOG_CONTEXT)

    def _give_up(self) -> None:
        """Go on without those that have not rejoined in time."""
        self._deadline = None
        for member in [m for m in self._members.values() if m.joining is None]:
            self._drop(member)
            self._assigned.pop(member.member_id, None)
            self._later(member)
        self._maybe_complete()

    def _maybe_complete(self) -> None:
        if not self._rebalancing or any(m.joining is None for m in self._members.values()):
            return
        self._rebalancing = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.generation += 1
        self._assigned = spread(range(self._partitions), list(self._members), self._assigned)
        for member in self._members.values():
            answer, member.joining = member.joining, None
            if answer is not None:
                self._answer(answer, member)

    def _answer(self, answer: asyncio.Future[Assignment], member: Member) -> None:
        told = Assignment(member.member_id, self.generation, self._assigned.get(member.member_id, frozenset()))
        delay_s = self._random.random() * self._timing.latency_s[1]
        asyncio.get_running_loop().call_later(delay_s, _resolve, answer, told, context=LOG_CONTEXT)

    def _later(self, member: Member) -> None:
        """Signal *member* when its next heartbeat is answered; a zombie sends its next one after it has woken up."""
        delay_s = self._random.random() * self._timing.heartbeat_s
        asyncio.get_running_loop().call_later(delay_s, self._signal, member, context=LOG_CONTEXT)

    def _signal(self, member: Member) -> None:
        process = member.process
        if not process.frozen:
            member.signal()
            return

        def woken(change: Change) -> None:
            if change != "frozen":
                process.unwatch(woken)
            if change == "thawed":
                self._later(member)

        process.watch(woken)


def _resolve(answer: asyncio.Future[Assignment], told: Assignment) -> None:
    if not answer.done():
        answer.set_result(told)


def spread(partitions: range, members: list[str], before: dict[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Spread *partitions* evenly over *members*, leaving with each as much of what it had *before* as is fair."""
    if not members:
        return {}
    fewest, extra = divmod(len(partitions), len(members))
    kept: dict[str, list[int]] = {}
    free = set(partitions)
    for member in sorted(members, key=lambda m: -len(before.get(m, ()))):
        quota = fewest + (1 if extra > 0 else 0)
        kept[member] = sorted(p for p in before.get(member, ()) if p in free)[:quota]
        free.difference_update(kept[member])
        if len(kept[member]) > fewest:
            extra -= 1
    left = sorted(free)
    for member in members:
        quota = fewest + (1 if extra > 0 and len(kept[member]) <= fewest else 0)
        while left and len(kept[member]) < quota:
            kept[member].append(left.pop(0))
        if len(kept[member]) > fewest and quota > fewest:
            extra -= 1
    return {member: frozenset(kept[member]) for member in members}
