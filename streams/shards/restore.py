"""Bringing a shard back from its log: the latest value of each journal key, then assembled.

The journal may hold many values of a key that compaction has not reached; only the latest is decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from streams.broker.port import LogRecord
from streams.records import decode, decode_as
from streams.records.journal import AppliedWrites, Cursor, Early, JournalChunk, JournalEntry, Marker
from streams.records.state import StateDelta
from streams.shards.engine import Engine
from streams.shards.live import CURSOR_KEY, SEPARATOR, restore_live


@dataclass(slots=True)
class Restored:
    """What was read of a shard's log.

    Attributes:
        journal: Latest value of each key.
        state: Latest value of each state record.
        records: Records read, for the log line.
    """

    journal: dict[bytes, bytes] = field(default_factory=dict)
    state: dict[bytes, bytes] = field(default_factory=dict)
    records: int = 0

    def take(self, records: Iterable[LogRecord], *, journal: bool) -> None:
        """Keep the latest of each key; a tombstone forgets it."""
        latest = self.journal if journal else self.state
        for record in records:
            self.records += 1
            assert record.key is not None
            if record.value is None:
                latest.pop(record.key, None)
            else:
                # Anew, so that the dictionary is in the order of the latest writes: markers expire in that order.
                latest.pop(record.key, None)
                latest[record.key] = record.value

    def into(self, engine: Engine, now: float) -> Cursor:
        """Fill a new engine and return the cursor (a fresh one for a shard that never ran).

        Raises:
            UnknownSchema: The journal was written by a newer version.
            CodecError: A journal record is damaged.
        """
        cursor = Cursor(epoch=0, sequence=0, accepted=0)
        entries: dict[str, JournalEntry] = {}
        chunks: dict[str, dict[tuple[int, int], JournalChunk]] = defaultdict(dict)
        for data in self.state.values():
            engine.state.put(decode_as(StateDelta, data))
        for key, data in self.journal.items():
            record = decode(data)
            match record:
                case Marker():
                    engine.markers.put(key.decode(), record)
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
        engine.epoch = cursor.epoch + 1
        engine.sequence = cursor.sequence
        engine.accepted = cursor.accepted
        engine.paused = set(cursor.paused)
        engine.adopt([restore_live(entry, chunks.get(key, {})) for key, entry in entries.items()], now)
        return cursor
