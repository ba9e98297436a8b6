"""State that a shard does not have in memory: what may leave, what must be read back, what may leave the log. Pure.

State stays in its shard while there is room. What the store has for certain (it lies below the sink's committed
position) may be evicted; an invocation that needs it again waits for a read while its shard goes on. What has been in
the store for long may leave the log as well: then only the store and the filter of evicted agents know of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streams.errors import DeadlineExceeded, HandlerError, StateUnavailable
from streams.records import decode, encode
from streams.records.journal import Deferred, FlushMarks
from streams.records.state import StateDelta
from streams.shards.evicted import EvictedFilter
from streams.shards.late_writes import LATE_S, LateWrites
from streams.shards.live import PARKED, Live
from streams.shards.memory import AgentRecords

if TYPE_CHECKING:
    from streams.shards.engine import Engine

WAITS_FOR_STORE = "waiting for its state from the store"
NO_STORE = "this process reads no store; set STREAMS_MEMORY__DSN"

LOOKED_AT = 256
"""Agents that one round of evicting looks at; those that must stay are looked at again when they are oldest again."""


@dataclass(frozen=True, slots=True)
class Miss:
    """State that must be read.

    Attributes:
        owner: Agent ID, or that of a shared record.
        at_least: Sequences that records must have; an answer below one is of a store that has lost something.
    """

    owner: str
    at_least: Mapping[str, int]

    def is_met(self, deltas: Iterable[StateDelta]) -> bool:
        """Tell whether the store's answer has everything that is known to have been written."""
        has = {delta.record: delta.sequence for delta in deltas}
        return all(has.get(record, 0) >= sequence for record, sequence in self.at_least.items())


@dataclass(frozen=True, slots=True)
class StateArrived:
    """What the store has of an owner; deleted records too."""

    owner: str
    deltas: tuple[StateDelta, ...]


@dataclass(frozen=True, slots=True)
class Swept:
    """What was compared between log and store.

    Attributes:
        kept: Key and owner of records of which the store has the newest version, for as long as was asked.
        lost: Records that it has had, and has not any more.
    """

    kept: tuple[tuple[bytes, str], ...]
    lost: tuple[StateDelta, ...] = ()


MARKS_KEY = b"\x00flushed"
DEFERRED_KEY = b"\x00deferred\x00"


@dataclass(slots=True)
class ColdCounters:
    """What was found in memory and what was not."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0
    tombstoned: int = 0
    repaired: int = 0


class Cold:
    """See the module.

    Attributes:
        flushed: The store has every write up to this sequence.
        filter: Agents of which the store may have more than memory and log.
        flush_marks: How far the sink had come when, as journaled.
        late: What the store must have at least of those that are not here.
        trouble: Why the store cannot be read now, for those that wait.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._state = engine.state
        self.filter = EvictedFilter()
        self.flushed = 0
        self.trouble = NO_STORE
        self.counters = ColdCounters()
        self.flush_marks = FlushMarks((), ())
        self._waiting: dict[str, list[str]] = {}
        self._asked: set[str] = set()
        self._wanted: list[Miss] = []
        self._deferred: dict[str, list[int]] = {}
        self._requests: dict[int, Any] = {}
        self._number = 0
        self.late = LateWrites()
        self._swept: set[str] = set()
        self._returned: set[str] = set()

    # -- reading -------------------------------------------------------------------------------------------------------

    def at_hand(self, owner: str) -> bool:
        """Tell whether all of an owner is in memory; a new one is."""
        records = self._state.find(owner)
        return records.complete if records is not None else not self.filter.may_contain(owner)

    def admit(self, live: Live) -> str:
        """Return why *live* must wait before its handler is run, empty when its state is here; then ask for it."""
        owner = live.agent_id
        if self.at_hand(owner):
            self.counters.hits += 1
            return ""
        self.counters.misses += 1
        self._waiting.setdefault(owner, []).append(live.id)
        self._ask(owner)
        return WAITS_FOR_STORE

    def defer(self, owner: str, request: Any) -> bool:
        """Keep a request for state that is not here, and ask for it; False when it is here. Journaled."""
        if self.at_hand(owner):
            self.counters.hits += 1
            return False
        self.counters.misses += 1
        self._number += 1
        self._engine.outbox.journal(deferred_key(self._number), encode(Deferred(owner, encode(request))))
        self._keep(self._number, owner, request)
        return True

    def restore_deferred(self, key: bytes, deferred: Deferred) -> None:
        """Take over a request from the journal; those of a shard in the order of their numbers."""
        number = deferred_number(key)
        self._number = max(self._number, number)
        self._keep(number, deferred.owner, decode(deferred.record))

    def _keep(self, number: int, owner: str, request: Any) -> None:
        self._requests[number] = request
        self._deferred.setdefault(owner, []).append(number)
        self._ask(owner)

    def _ask(self, owner: str) -> None:
        if owner not in self._asked:
            self._asked.add(owner)
            self._wanted.append(Miss(owner, self.late.of(owner, self._engine.now)))

    def take_wanted(self) -> list[Miss]:
        """Return what must be read and was not asked for yet."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def still_wanted(self, owner: str) -> bool:
        """Tell whether somebody waits for an owner; if nobody does, it counts as not asked for."""
        live = self._engine.live
        if owner in self._deferred or any(identity in live for identity in self._waiting.get(owner, ())):
            return True
        self._waiting.pop(owner, None)
        self._asked.discard(owner)
        return False

    def on_arrival(self, arrived: StateArrived) -> None:
        """Take back an owner, and wake who waits for it; what the log has that is newer stays."""
        owner, engine = arrived.owner, self._engine
        self._asked.discard(owner)
        if not self.at_hand(owner):
            records = AgentRecords()
            for delta in arrived.deltas:
                records.put(delta.record, delta)
            if (partial := self._state.find(owner)) is not None:
                records.merge(partial)
            self._state.put_all(owner, records)
            self.late.forget(owner)
            self._swept.discard(owner)
            self._returned.add(owner)
        for number in self._deferred.pop(owner, ()):
            engine.outbox.journal(deferred_key(number), None)
            engine.handle(self._requests.pop(number))
        for identity in self._waiting.pop(owner, ()):
            live = engine.live.get(identity)
            if live is not None and waits_for_store(live):
                live.wake_at_s = engine.now
                engine.push_wake(live)

    def too_late(self, live: Live) -> HandlerError:
        """Return the error of an invocation whose deadline has passed."""
        if waits_for_store(live):
            problem = self.trouble or "no answer yet"
            return StateUnavailable(f"the state of {live.agent_id} could not be read before the deadline: {problem}")
        return DeadlineExceeded(f"{live.id} did not end before its deadline")

    # -- leaving memory ------------------------------------------------------------------------------------------------

    def evict(self, excess_bytes: int) -> None:
        """Forget owners that the store has and nobody works with, those used longest ago first."""
        state, goal = self._state, self._state.size_bytes - excess_bytes
        for _ in range(min(LOOKED_AT, len(state))):
            if state.size_bytes <= goal or (oldest := state.oldest()) is None:
                return
            owner, records = oldest
            if records.sequence > self.flushed or self._pinned(owner):
                state.spare(owner)
                continue
            state.drop(owner)
            self.filter.add(owner)
            self.late.note(owner, records.written_since((self._engine.now - LATE_S) * 1000), self._engine.now)
            self.counters.evicted += 1

    def _pinned(self, owner: str) -> bool:
        """A handler that has begun holds on to its state; one that is not in memory may ask for it again."""
        instance = self._engine.instances.get(owner)
        return instance is not None and any(
            live.run is not None or waits_for_store(live) for live in instance.started()
        )

    # -- leaving the log -----------------------------------------------------------------------------------------------

    def is_outside(self, owner: str) -> bool:
        """Tell whether nothing of an owner is in memory: what is stays in the log, where it may be newer."""
        return self._state.find(owner) is None

    def begin_portion(self) -> None:
        """Note from now on who is read back: what the log says of them may be old."""
        self._returned.clear()

    def begin_sweep(self, owners: Collection[str]) -> set[str]:
        """Return those of *owners* of which nothing is, or was since `begin_portion`, in memory. See `on_swept`."""
        self._swept = {owner for owner in owners if self.is_outside(owner) and owner not in self._returned}
        return self._swept

    def on_swept(self, swept: Swept) -> None:
        """Tombstone what the store has kept, with the filter that tells of it; write again what it has lost."""
        engine = self._engine
        for key, owner in swept.kept:
            if owner in self._swept:  # else it was read meanwhile, and may have been written
                self.filter.add(owner)
                engine.outbox.forget_state(key)
                self.counters.tombstoned += 1
        engine.outbox.journal_all(self.filter.writes())
        for delta in swept.lost:
            if delta.owner in self._swept:
                self._write_again(delta)

    def on_flush_marks(self, marks: FlushMarks) -> None:
        """Journal how far the sink has come when, for the next owner."""
        self.flush_marks = marks
        self._engine.outbox.journal(MARKS_KEY, encode(marks))

    def _write_again(self, delta: StateDelta) -> None:
        engine = self._engine
        owner = delta.owner
        engine.sequence += 1
        again = replace(delta, epoch=engine.epoch, sequence=engine.sequence)
        # Until it is flushed it must not be read past, so it is kept, though the rest of its owner is not here.
        self.filter.add(owner)
        self._state.put(again, complete=False)
        self.late.note(owner, {again.record: again.sequence}, engine.now)
        engine.outbox.state(again)
        self.counters.repaired += 1


def deferred_key(number: int) -> bytes:
    """Return the journal key of a deferred request."""
    return DEFERRED_KEY + str(number).encode()


def deferred_number(key: bytes) -> int:
    """Return the number in such a key."""
    return int(key.removeprefix(DEFERRED_KEY))


def waits_for_store(live: Live) -> bool:
    """Tell whether an invocation waits for its state."""
    return live.phase == PARKED and live.reason == WAITS_FOR_STORE
