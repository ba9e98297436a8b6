"""Which writes to shared records were applied lately, so that the same request changes nothing a second time.

Bounded, and journaled in portions: a portion is rewritten until it is full, then the next one replaces the oldest.
"""

from __future__ import annotations

from collections.abc import Iterator

from streams.records import encode
from streams.records.ids import digest
from streams.records.journal import AppliedWrites

PORTIONS = 128
PORTION_REQUESTS = 64
"""Together the requests that a shard remembers; a client sends one again for some seconds at most."""

APPLIED_KEY = b"\x00applied\x00"


class Applied:
    """The requests of one shard that were applied."""

    def __init__(self) -> None:
        self._portions: dict[int, dict[bytes, bytes]] = {}
        self._number = 0
        self._dirty: set[int] = set()
        self._answers: dict[bytes, bytes] = {}

    def answer(self, request: str) -> bytes | None:
        """Return what a request was answered that was applied; None for one that was not."""
        return self._answers.get(digest(request.encode()))

    def note(self, request: str, answer: bytes) -> None:
        """Remember a request that was applied now."""
        portion = self._portions.setdefault(self._number, {})
        if len(portion) >= PORTION_REQUESTS:
            self._number += 1
            portion = self._portions[self._number] = {}
            for name in self._portions.pop(self._number - PORTIONS, ()):
                del self._answers[name]
        portion[digest(request.encode())] = self._answers[digest(request.encode())] = answer
        self._dirty.add(self._number)

    def writes(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of the journal records that bring the log up to date."""
        for number in sorted(self._dirty & self._portions.keys()):
            portion = self._portions[number]
            record = AppliedWrites(number, tuple(portion), tuple(portion.values()))
            yield APPLIED_KEY + str(number % PORTIONS).encode(), encode(record)
        self._dirty.clear()

    def restore(self, record: AppliedWrites) -> None:
        """Take over a portion from the journal."""
        portion = dict(zip(record.requests, record.answers, strict=True))
        self._portions[record.number] = portion
        self._answers |= portion
        self._number = max(self._number, record.number)

    def __len__(self) -> int:
        return len(self._answers)
