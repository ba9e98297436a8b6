"""What a shard has written about itself, kept in memory as a compacted log would keep it."""

from __future__ import annotations

from collections.abc import Iterable

from streams.broker.port import SkimmedRecord
from streams.records import encode
from streams.records.journal import Cursor
from streams.shards.effects import Write
from streams.shards.engine import Engine
from streams.shards.live import CURSOR_KEY
from streams.shards.restore import Restored


class KeptJournal:
    """Journal and state of one shard: the latest value of each key.

    Attributes:
        bytes_written: Of all journal records, overwritten ones included.
        latest: By key, journal records only.
    """

    def __init__(self) -> None:
        self.bytes_written = 0
        self.latest: dict[bytes, bytes] = {}
        self._state: dict[bytes, bytes] = {}

    def keep(self, writes: Iterable[Write], engine: Engine) -> None:
        """Commit what *engine* wants written, and where it stands."""
        for write in writes:
            if write.kind == "journal":
                self.bytes_written += len(write.value or b"")
                self._put(self.latest, write.key, write.value)
            elif write.kind == "state-deltas":
                self._put(self._state, write.key, write.value)
        cursor = Cursor(
            engine.epoch, engine.sequence, engine.accepted, paused=tuple(sorted(engine.paused))
        )  # fmt: skip
        self._put(self.latest, CURSOR_KEY, encode(cursor))

    def restore(self, engine: Engine, now: float) -> None:
        """Fill a new engine, as the next owner of the shard does."""
        restored = Restored(now=now)
        restored.take_journal(_records(self.latest))
        restored.take_state(_records(self._state))
        restored.into(engine, now)

    @staticmethod
    def _put(latest: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
        latest.pop(key, None)
        if value is not None:
            latest[key] = value


def _records(latest: dict[bytes, bytes]) -> list[SkimmedRecord]:
    return [(offset, 0, key, value) for offset, (key, value) in enumerate(latest.items())]
