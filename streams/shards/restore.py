"""Bringing a shard back from its log: the latest value of each journal key, then assembled.

The log may hold many values of a key that compaction has not reached; only the latest is kept, and state is decoded
when somebody asks for it. State that the store has is kept only as far as there is room.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from streams.broker.port import SkimmedRecord
from streams.records import decode, decode_as, holds
from streams.records.journal import (
    AppliedWrites,
    Cursor,
    Deferred,
    Early,
    EvictedPage,
    EvictedSummary,
    FlushMarks,
    JournalChunk,
    JournalEntry,
    Marker,
)
from streams.records.state import StateDelta
from streams.shards.cold import deferred_number
from streams.shards.engine import Engine
from streams.shards.evicted import SUMMARY_KEY, EvictedFilter
from streams.shards.late_writes import LATE_S, LateWrites
from streams.shards.live import CURSOR_KEY, SEPARATOR, restore_live
from streams.shards.memory import AGENT_BYTES, RECORD_BYTES


class Kept(NamedTuple):
    """The latest value of a state record."""

    offset: int
    timestamp_ms: int
    data: bytes


class Restored:
    """What was read of a shard's log: the whole journal first, then the state.

    Args:
        flushed_offset: Position up to which the store has the state; 0 where there is no store.
        room_bytes: What state may take; beyond it the oldest is left to the store. None for no bound.
        now: Seconds since the epoch.

    Attributes:
        journal: Latest value of each key.
        state: Latest value of each state record.
        records: Records read, for the log line.
        end_offset: Offset after the last state record.
    """

    def __init__(self, *, flushed_offset: int = 0, room_bytes: int | None = None, now: float = 0.0) -> None:
        self.journal: dict[bytes, bytes] = {}
        # Ordered, because its first entry is taken again and again: a plain dictionary walks over those taken before.
        self.state: OrderedDict[bytes, Kept] = OrderedDict()
        self.records = 0
        self.end_offset = 0
        self._flushed_offset = flushed_offset
        self._room_bytes = room_bytes
        self._now = now
        self._late = LateWrites()
        self._bytes = 0

    def take_journal(self, records: Sequence[SkimmedRecord]) -> None:
        """Keep the latest of each key; a tombstone forgets it."""
        self.records += len(records)
        latest = self.journal
        for _, _, key, value in records:
            assert key is not None
            # Anew, so that the dictionary is in the order of the latest writes: markers expire in that order.
            latest.pop(key, None)
            if value is not None:
                latest[key] = value

    def take_state(self, records: Sequence[SkimmedRecord]) -> None:
        """Keep the latest of each key, as far as there is room; a tombstone forgets it."""
        self.records += len(records)
        for offset, timestamp_ms, key, value in records:
            assert key is not None
            if (old := self.state.pop(key, None)) is not None:
                self._bytes -= _size(key, old.data)
            if value is not None:
                self.state[key] = Kept(offset, timestamp_ms, value)
                self._bytes += _size(key, value)
                self._make_room()
        if records:
            self.end_offset = records[-1][0] + 1

    def _make_room(self) -> None:
        while self._room_bytes is not None and self._bytes > self._room_bytes:
            key, oldest = next(iter(self.state.items()))
            if oldest.offset >= self._flushed_offset:
                return
            del self.state[key]
            self._bytes -= _size(key, oldest.data)
            self._leave(*owner_and_record(key), oldest)

    def _leave(self, owner: str, record: str, kept: Kept) -> None:
        """Leave a record to the store; what was written lately is noted, so that the store can be held to it."""
        self.filter.add(owner)
        if kept.timestamp_ms >= (self._now - LATE_S) * 1000:
            self._late.note(owner, {record: decode_as(StateDelta, kept.data).sequence}, self._now)

    @cached_property
    def filter(self) -> EvictedFilter:
        """The filter of evicted agents as it was journaled; then, of those that this restore leaves to the store."""
        found = EvictedFilter()
        summary = None
        for key, data in self.journal.items():
            if key.startswith(SUMMARY_KEY):
                if key == SUMMARY_KEY:
                    summary = decode_as(EvictedSummary, data)
                else:
                    found.restore(decode_as(EvictedPage, data))
        found.finish(summary)
        return found

    def into(self, engine: Engine, now: float) -> Cursor:
        """Fill a new engine and return the cursor (a fresh one for a shard that never ran).

        Raises:
            UnknownSchema: The journal was written by a newer version.
            CodecError: A journal record is damaged.
        """
        cursor = Cursor(epoch=0, sequence=0, accepted=0)
        entries: dict[str, JournalEntry] = {}
        chunks: dict[str, dict[tuple[int, int], JournalChunk]] = defaultdict(dict)
        deferred: dict[bytes, Deferred] = {}
        for key, data in self.journal.items():
            if holds(Marker, data):  # most are
                engine.markers.put(key.decode(), data)
                continue
            record = decode(data)
            match record:
                case Marker():  # of an older version
                    engine.markers.put(key.decode(), data)
                case JournalEntry():
                    entries[key.decode()] = record
                case JournalChunk():
                    chunks[record.invocation][record.incarnation, record.number] = record
                case Early():
                    engine.early[key.decode().partition(SEPARATOR)[0]] = record
                case AppliedWrites():
                    engine.applied.restore(record)
                case Cursor() if key == CURSOR_KEY:
                    cursor = record
                case Deferred():
                    deferred[key] = record
                case FlushMarks():
                    engine.cold.flush_marks = record
                case EvictedPage() | EvictedSummary():
                    pass  # they are in the filter
        engine.epoch = cursor.epoch + 1
        engine.sequence = cursor.sequence
        engine.accepted = cursor.accepted
        engine.paused = set(cursor.paused)
        engine.adopt([restore_live(entry, chunks.get(key, {})) for key, entry in entries.items()], now)
        self._fill(engine, cursor.sequence)
        for key in sorted(deferred, key=deferred_number):
            engine.cold.restore_deferred(key, deferred[key])
        return cursor

    def _fill(self, engine: Engine, sequence: int) -> None:
        """Hand over the state, and which agents are incomplete: the filter knows them, so the store may have more."""
        engine.cold.filter = self.filter
        engine.cold.late = self._late
        while self.state:
            key, kept = self.state.popitem(last=False)
            owner, record = owner_and_record(key)
            dirty = kept.offset >= self._flushed_offset
            complete = not self.filter.may_contain(owner)
            if complete or dirty:
                engine.state.put_encoded(owner, record, kept.data, sequence=sequence if dirty else 0, complete=complete)
            else:
                self._leave(owner, record, kept)


def owner_and_record(key: bytes) -> tuple[str, str]:
    """Return owner and record of a key of `state-deltas`."""
    owner, _, record = key.decode().partition(SEPARATOR)
    return owner, record


def _size(key: bytes, data: bytes) -> int:
    return RECORD_BYTES + AGENT_BYTES + len(key) + len(data)
