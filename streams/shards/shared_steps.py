"""Steps of this shard's handlers that concern shared records: asked of the record's shard, their outcomes delivered.

A record that is in this shard's memory is used at once. An `update` reads, applies its function and writes what came
out, expecting the version that it has read. Updates of one record that wait in this shard go together: each is computed
from what the one before it would make, and all are written in one transaction, each expecting that its predecessor was
applied; the record's shard applies them in that order, or none from the first conflict on. A conflict brings what the
record holds now, so that the next try needs one round trip. Nobody is told what was computed before it is written.

What gathers here is in memory only. It is made anew from the handlers that wait, and cannot do anything twice: a write
is applied only while its version is the current one, and outcomes come back in the order in which the record's shard
made them, so that an update that was applied is known to be before anything is written for it again.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from zlib import crc32

import orjson

from streams.agents.run import Request
from streams.agents.shared import SharedStep, conflict_of
from streams.errors import HandlerError, InvalidInput, PayloadTooLarge
from streams.records.journal import Completion
from streams.records.signals import SharedOutcome, SharedRequest
from streams.records.versions import advance
from streams.shards.dispatch import completed, raised
from streams.shards.effects import Write
from streams.shards.live import RUNNING, Live
from streams.shards.shared import Verdict, request_name, request_write

if TYPE_CHECKING:
    from streams.shards.engine import Engine

RECENT_COUNT, RECENT_BYTES = 256, 4_096
"""Records whose last known value is kept, each up to so many bytes: the next update tries with it and saves a read."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.004, 0.25
MOST_TOGETHER = 100
NEVER = float("inf")

Member = tuple[str, int, int]
"""Invocation, incarnation and step of an update."""


@dataclass(slots=True)
class Group:
    """The updates of one record that wait in this shard.

    Attributes:
        members: Updates to the conflicts that each has met, the longest here first.
        out: Those with a request under way.
        covered: Those that waited already when the last request was sent, so that what it brought is news to them.
        known: Value and version of the record as last heard of; None to ask.
        stale: What is known is from before these updates.
        guessed: The requests under way rely on it; that others have written since is no conflict yet.
        conflicted: The last requests met a conflict; a pause follows.
        missed: Whose writes the last conflict was about, and how many more.
        rounds: Conflicts one after the other; pauses grow with them.
        at_s: When the pause ends; 0 where there is none.
    """

    members: dict[Member, int] = field(default_factory=dict)
    out: set[Member] = field(default_factory=set)
    covered: set[Member] = field(default_factory=set)
    known: tuple[bytes | None, dict[str, int]] | None = None
    stale: bool = False
    guessed: bool = False
    conflicted: bool = False
    missed: tuple[tuple[str, ...], int] = ((), 0)
    rounds: int = 0
    at_s: float = 0.0

    def learn(self, outcome: SharedOutcome) -> None:
        """Take note of what the record holds, unless something later is known."""
        if outcome.status == "refused":
            return
        if self.known is None or sum(outcome.version.values()) >= sum(self.known[1].values()):
            self.known = (outcome.value, outcome.version)
        if outcome.status == "conflict":
            self.conflicted, self.missed = True, (outcome.writers, outcome.others)
        elif outcome.operation != "read":
            self.rounds = 0


class SharedSteps:
    """Asks in the name of an engine's handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._groups: dict[str, Group] = {}
        self._dirty: dict[str, None] = {}
        self._pauses: list[tuple[float, str]] = []
        self._recent: OrderedDict[str, tuple[bytes | None, dict[str, int]]] = OrderedDict()

    @property
    def next_at(self) -> float:
        """When a pause ends, in seconds since the epoch; infinite where there is none."""
        return self._pauses[0][0] if self._pauses else NEVER

    def __len__(self) -> int:
        return sum(len(group.members) for group in self._groups.values())

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, live: Live, request: Request) -> Completion | Write | None:
        """Return the outcome, the request to send, or None for an update that goes together with others."""
        step: SharedStep = request.spec
        partition = self._engine.partition_of(step.owner)
        if partition == self._engine.partition and self._engine.cold.at_hand(step.owner):
            return self._here(live, request, step)
        if step.operation == "update":
            self._join(live, request)
            return None
        return request_write(self._request(live, request, step.operation, step.value, step.expected), partition)

    def recall(self, live: Live, request: Request) -> None:
        """Take up again a step that a run before this one has asked for."""
        if request.kind == "shared" and request.spec.operation == "update" and not request.abandoned:
            self._join(live, request)

    def _join(self, live: Live, request: Request) -> None:
        owner = request.spec.owner
        group = self._groups.get(owner)
        if group is None:
            group = self._groups[owner] = Group(known=self._recent.pop(owner, None))
            group.stale = group.known is not None
        group.members.setdefault((live.id, live.incarnation, request.step), 0)
        self._dirty[owner] = None

    def _here(self, live: Live, request: Request, step: SharedStep) -> Completion:
        shared = self._engine.shared
        if step.operation != "update":
            asked = self._request(live, request, step.operation, step.value, step.expected)
            verdict = shared.apply(asked, once=True)
            return self._conclude(request, verdict)
        seen = shared.apply(self._request(live, request, "read"), once=True)
        try:
            after = self._compute(live, step, seen.value)
        except Exception as error:
            return raised(request, error, self._engine.now)
        written = self._request(live, request, "write", after, seen.version)
        return self._conclude(request, shared.apply(written, once=True))

    def _compute(self, live: Live, step: SharedStep, current: bytes | None) -> bytes:
        run = live.run
        assert run is not None
        run.updating = True
        try:
            after = step.compute(current)
        finally:
            run.updating = False
        most = self._engine.limits.max_payload_bytes
        if len(after) > most:
            what = f"{step.owner} after its update"
            raise HandlerError(str(PayloadTooLarge(what, len(after), most, "max_payload_bytes")))
        return after

    def _request(
        self,
        live: Live,
        request: Request,
        operation: str,
        value: bytes | None = None,
        expected: Mapping[str, int] | None = None,
    ) -> SharedRequest:
        step: SharedStep = request.spec
        return SharedRequest(
            name=step.name,
            key=step.key,
            operation=operation,
            writer=live.agent_id,
            sent_at_ms=int(self._engine.now * 1000),
            value=value,
            expected=None if expected is None else dict(expected),
            origin=live.id,
            incarnation=live.incarnation,
            step=request.step,
        )

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def on_outcome(self, outcome: SharedOutcome) -> None:
        """Give an outcome to the step that waits for it, or use it for the next try of an update."""
        engine = self._engine
        owner = f"shared/{outcome.name}/{outcome.key}"
        member = (outcome.origin, outcome.incarnation, outcome.step)
        if (group := self._groups.get(owner)) is not None:
            group.out.discard(member)
            self._dirty[owner] = None
            group.learn(outcome)
        if (found := engine.outcomes.awaiting(outcome, outcome.origin, "shared")) is None:
            return
        live, agent, request = found
        if request.spec.operation == "update" and _goes_on(outcome):
            self._join(live, request)
            group = self._groups[owner]
            group.learn(outcome)
            group.members[member] += outcome.status == "conflict" and not group.guessed
            return
        if (group := self._groups.get(owner)) is not None:
            group.members.pop(member, None)
        verdict = Verdict(
            outcome.status, outcome.value, outcome.version, outcome.writers, outcome.others, outcome.message
        )
        engine.handlers.give(live, self._conclude(request, verdict))
        engine.handlers.drive(live, agent)

    def _conclude(self, request: Request, verdict: Verdict) -> Completion:
        now, step = self._engine.now, request.spec
        if verdict.status == "refused":
            return raised(request, InvalidInput(verdict.message), now)
        if verdict.status == "conflict":
            found = conflict_of(step.expected or {}, verdict.version, verdict.writers, verdict.others)
            return replace(completed(request, now, status="conflict"), cause=found.decode())
        value = None if step.operation in ("write", "delete") else verdict.value
        return replace(completed(request, now, value=value), cause=orjson.dumps(verdict.version).decode())

    # -- updates that go together --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """At the end of a step: let every record's updates go on that can."""
        while self._pauses and self._pauses[0][0] <= self._engine.now:
            self._dirty[heapq.heappop(self._pauses)[1]] = None
        while self._dirty:
            owner = next(iter(self._dirty))
            del self._dirty[owner]
            if (group := self._groups.get(owner)) is not None:
                self._advance(owner, group)

    def _advance(self, owner: str, group: Group) -> None:
        waiting = self._waiting(owner, group)
        if not group.members:
            self._end(owner, group)
            return
        group.out &= group.members.keys()
        if group.out:
            return
        engine = self._engine
        conflicted = group.conflicted and not group.guessed
        group.conflicted = group.guessed = False
        if conflicted:
            group.rounds += 1
            group.at_s = engine.now + self._pause_s(owner, group.rounds)
            heapq.heappush(self._pauses, (group.at_s, owner))
            return
        if group.at_s > engine.now:
            return
        group.at_s = 0.0
        if group.known is not None:
            self._write(owner, group, waiting)
        if not group.out and group.members and owner not in self._dirty:
            live, request = next(pair for pair in waiting if self._member(*pair) in group.members)
            self._send(owner, group, self._request(live, request, "read"))
        elif not group.members:
            self._dirty[owner] = None

    def _end(self, owner: str, group: Group) -> None:
        """Forget a group, but for what it has learned last."""
        if self._groups.get(owner) is not group:
            return
        del self._groups[owner]
        if group.known is not None and len(group.known[0] or b"") <= RECENT_BYTES:
            self._recent[owner] = group.known
            if len(self._recent) > RECENT_COUNT:
                self._recent.popitem(last=False)

    def _waiting(self, owner: str, group: Group) -> list[tuple[Live, Request]]:
        """Return the updates that still wait; let go of those that do not, and of those that have tried enough."""
        engine, waiting = self._engine, []
        for member, conflicts in list(group.members.items()):
            live = engine.live.get(member[0])
            agent = None
            if live is not None and live.incarnation == member[1] and live.phase == RUNNING:
                agent = engine.handlers.activate(live)
            request = live.run.waits_for(member[2]) if agent is not None and live is not None and live.run else None
            if live is None or agent is None or request is None or request.kind != "shared":
                group.members.pop(member, None)
            elif conflicts >= request.spec.attempts and member not in group.out:
                group.members.pop(member, None)
                version = group.known[1] if group.known is not None else {}
                found = conflict_of({}, version, *group.missed)
                gave_up = replace(completed(request, engine.now, status="conflict"), cause=found.decode())
                engine.handlers.give(live, replace(gave_up, attempts=conflicts))
                engine.handlers.drive(live, agent)
            else:
                waiting.append((live, request))
        return waiting

    def _write(self, owner: str, group: Group, waiting: list[tuple[Live, Request]]) -> None:
        """Compute the updates one from the other, and send what they would write."""
        engine = self._engine
        assert group.known is not None
        value, version = group.known
        group.known, group.guessed, group.stale = None, group.stale, False
        before, sent, size = "", 0, 0
        covered = group.covered
        for live, request in waiting:
            member = self._member(live, request)
            if sent >= MOST_TOGETHER or size > engine.limits.max_payload_bytes:
                break
            if member not in group.members or live.run is None or live.run.waits_for(request.step) is not request:
                continue
            try:
                after = self._compute(live, request.spec, value)
            except Exception as error:
                # True only of what the record really held while this update waited: not of what is computed here.
                if not sent and member in covered:
                    del group.members[member]
                    agent = engine.handlers.activate(live)
                    engine.handlers.give(live, raised(request, error, engine.now))
                    if agent is not None:
                        engine.handlers.drive(live, agent)
                continue
            asked = replace(self._request(live, request, "write", after, version), after=before)
            self._send(owner, group, asked)
            value, version, before = after, advance(version, live.agent_id), request_name(asked)
            sent += 1
            size += len(after)

    def _send(self, owner: str, group: Group, request: SharedRequest) -> None:
        engine = self._engine
        group.out.add((request.origin, request.incarnation, request.step))
        group.covered = set(group.members)
        engine.outbox.add(request_write(request, engine.partition_of(owner)))

    def _pause_s(self, owner: str, rounds: int) -> float:
        most = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(rounds - 1, 10))
        drawn = crc32(f"{owner} {self._engine.partition} {rounds} {self._engine.now}".encode()) / 2**32
        return float(most * drawn)

    @staticmethod
    def _member(live: Live, request: Request) -> Member:
        return live.id, live.incarnation, request.step


def _goes_on(outcome: SharedOutcome) -> bool:
    return outcome.status == "conflict" or (outcome.status == "ok" and outcome.operation == "read")
