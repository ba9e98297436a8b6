"""What a shard remembers of its agents: their state records, least recently used first, and what they take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from streams.agents.state import StateView, log_entry
from streams.records import decode_as
from streams.records.state import StateDelta
from streams.records.versions import advance

RECORD_BYTES, AGENT_BYTES = 560, 480
"""What a record, and an agent, take in memory beside names and values (CPython 3.11, measured)."""

Stored = StateDelta | bytes
"""A record, or its encoding where nobody has asked for it since the restore."""


class AgentRecords:
    """State of one agent instance (or one shared record): the latest delta of each record, the length of each log.

    Attributes:
        complete: All of it is here. Otherwise these are what the log had, and the store has the rest.
        sequence: Of its newest write in this process; with it a shard knows whether the store has all of it.
        size_bytes: What it takes in memory, about.
    """

    __slots__ = ("_entries", "_fields", "complete", "lengths", "sequence", "size_bytes")

    def __init__(self, *, complete: bool = True) -> None:
        self._fields: dict[str, Stored] = {}
        self._entries: dict[str, dict[int, Stored]] = {}
        self.lengths: dict[str, int] = {}
        self.complete = complete
        self.sequence = 0
        self.size_bytes = AGENT_BYTES

    def put(self, record: str, stored: Stored) -> None:
        """Keep a delta as its record's latest."""
        name, hash_, position = record.partition("#")
        if hash_:
            number = int(position)
            entries = self._entries.setdefault(name, {})
            self.lengths[name] = max(self.lengths.get(name, 0), number + 1)
            old = entries.get(number)
            entries[number] = stored
        else:
            old = self._fields.get(record)
            self._fields[record] = stored
        self.size_bytes += _size(record, stored) - (_size(record, old) if old is not None else 0)

    def get(self, record: str) -> StateDelta | None:
        """Return the latest delta of a record."""
        name, hash_, position = record.partition("#")
        stored = self._entries.get(name, {}).get(int(position)) if hash_ else self._fields.get(record)
        return self._decoded(record, stored) if isinstance(stored, bytes) else stored

    def fields(self) -> Iterator[StateDelta]:
        """Yield the deltas that are no entries of logs."""
        for record, stored in list(self._fields.items()):
            yield self._decoded(record, stored) if isinstance(stored, bytes) else stored

    def written_since(self, at_ms: float) -> dict[str, int]:
        """Return the sequences of the records that were written since *at_ms*; of a log only its end is looked at."""
        written = {delta.record: delta.sequence for delta in self.fields() if delta.at_ms >= at_ms}
        for name, entries in self._entries.items():
            for number in sorted(entries, reverse=True):
                entry = self.get(log_entry(name, number))
                if entry is None or entry.at_ms < at_ms:
                    break
                written[entry.record] = entry.sequence
        return written

    def all(self) -> Iterator[StateDelta]:
        """Yield every delta."""
        yield from self.fields()
        for name, entries in self._entries.items():
            for number in list(entries):
                delta = self.get(log_entry(name, number))
                assert delta is not None
                yield delta

    def trim(self) -> None:
        """Let logs end before their last entries that are deleted: what was erased begins anew."""
        for name, length in self.lengths.items():
            while length and (last := self.get(log_entry(name, length - 1))) is not None and last.deleted:
                length -= 1
            self.lengths[name] = length

    def merge(self, other: AgentRecords) -> None:
        """Take what *other* has newer, or has alone."""
        for delta in other.all():
            mine = self.get(delta.record)
            if mine is None or (mine.epoch, mine.sequence) < (delta.epoch, delta.sequence):
                self.put(delta.record, delta)
        self.sequence = max(self.sequence, other.sequence)

    def _decoded(self, record: str, stored: bytes) -> StateDelta:
        """Decode and keep; its size stays as it was counted, for the sum over all owners has it so."""
        delta = decode_as(StateDelta, stored)
        name, hash_, position = record.partition("#")
        if hash_:
            self._entries[name][int(position)] = delta
        else:
            self._fields[record] = delta
        return delta


def _size(record: str, stored: Stored) -> int:
    value = stored if isinstance(stored, bytes) else stored.value or b""
    return RECORD_BYTES + len(record) + len(value)


class StateStore:
    """State records that a shard has in memory, by agent instance or shared record, least recently used first.

    Attributes:
        size_bytes: What they take, about.
    """

    def __init__(self) -> None:
        self._owners: OrderedDict[str, AgentRecords] = OrderedDict()
        self.size_bytes = 0

    def put(self, delta: StateDelta, *, sequence: int | None = None, complete: bool = True) -> None:
        """Keep a delta as the latest of its record.

        Args:
            sequence: Of the write, as the store must have it before this may be evicted; by default the delta's.
            complete: Whether an agent that is not here yet has nothing but this.
        """
        owner = delta.owner
        self._put(owner, delta.record, delta, delta.sequence if sequence is None else sequence, complete)

    def put_encoded(self, owner: str, record: str, data: bytes, *, sequence: int, complete: bool) -> None:
        """The same for a delta that is decoded when somebody asks for it."""
        self._put(owner, record, data, sequence, complete)

    def put_all(self, owner: str, records: AgentRecords) -> None:
        """Have *records* as the whole of an owner, used just now."""
        self.drop(owner)
        self._owners[owner] = records
        self.size_bytes += records.size_bytes

    def find(self, owner: str) -> AgentRecords | None:
        """Return what is here of an owner, as used as it was before."""
        return self._owners.get(owner)

    def of(self, owner: str) -> AgentRecords:
        """Return the records of an agent instance (see `StateDelta.owner`), used now; empty for a new one."""
        records = self._owners.get(owner)
        if records is None:
            return AgentRecords()
        self._owners.move_to_end(owner)
        return records

    def view(self, owner: str) -> StateView:
        """Return the state as an invocation that begins now must see it until its end.

        The view shares nothing that a later delta replaces: values are looked up now, log entries never change.
        """
        records = self.of(owner)
        values = {d.record: d.value for d in records.fields() if d.value is not None and not d.deleted}

        def entry(name: str, position: int) -> bytes:
            delta = records.get(log_entry(name, position))
            return (delta.value if delta else None) or b"null"

        records.trim()
        return StateView(values, dict(records.lengths), entry)

    def next_vector(self, owner: str, record: str, writer: str) -> dict[str, int]:
        """Return the version vector after one more write of *writer*."""
        latest = self.of(owner).get(record)
        return advance(latest.vector if latest else {}, writer)

    def drop(self, owner: str) -> AgentRecords | None:
        """Forget an owner; return what was here of it."""
        records = self._owners.pop(owner, None)
        if records is not None:
            self.size_bytes -= records.size_bytes
        return records

    def oldest(self) -> tuple[str, AgentRecords] | None:
        """Return the owner that was used longest ago."""
        return next(iter(self._owners.items()), None)

    def spare(self, owner: str) -> None:
        """Count an owner as used now."""
        self._owners.move_to_end(owner)

    def owners(self) -> Iterator[tuple[str, AgentRecords]]:
        """Yield all, those used longest ago first."""
        yield from self._owners.items()

    def __len__(self) -> int:
        return len(self._owners)

    def _put(self, owner: str, record: str, stored: Stored, sequence: int, complete: bool) -> None:
        records = self._owners.get(owner)
        if records is None:
            records = self._owners[owner] = AgentRecords(complete=complete)
            before = 0
        else:
            self._owners.move_to_end(owner)
            before = records.size_bytes
        records.put(record, stored)
        records.sequence = max(records.sequence, sequence)
        self.size_bytes += records.size_bytes - before
