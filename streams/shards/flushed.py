"""How far the store has what a shard has written: from the sink's committed offset to a sequence of writes. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streams.records.journal import FlushMarks

MOMENTS = 16
"""Moments that are remembered of the time for which state stays in the log."""

MARKS = 10_000
"""Transactions that are told apart; older ones are then taken together in pairs."""


@dataclass(slots=True)
class Mark:
    """After a transaction.

    Attributes:
        offset: After its last state record.
        sequence: Of its last write.
        size_bytes: Of its writes.
    """

    offset: int
    sequence: int
    size_bytes: int


class Flushed:
    """Which writes of a shard are in the store.

    Attributes:
        sequence: The store has every write up to this one.
        dirty_bytes: Of the writes that it does not have yet.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.dirty_bytes = 0
        self._reached = 0
        self._offset = 0
        self._marks: deque[Mark] = deque()

    def wrote(self, offset: int, sequence: int, size_bytes: int) -> None:
        """Note a transaction that is committed (see `Mark`)."""
        self.dirty_bytes += size_bytes
        self._marks.append(Mark(offset, sequence, size_bytes))
        if len(self._marks) > MARKS:
            self._thin_out()

    def advance(self, offset: int | None) -> int:
        """Take the sink's committed offset, None where it has none; return `sequence`.

        A sink that has gone back writes again what the store has, perhaps because the store has it no more: until it
        is where it was, nothing counts as flushed.
        """
        if offset is None or offset < self._offset:
            self.sequence = 0
            return 0
        self._offset = offset
        while self._marks and self._marks[0].offset <= offset:
            mark = self._marks.popleft()
            self._reached = mark.sequence
            self.dirty_bytes -= mark.size_bytes
        self.sequence = self._reached
        return self.sequence

    def _thin_out(self) -> None:
        pairs: deque[Mark] = deque()
        while self._marks:
            mark = self._marks.popleft()
            if self._marks:
                later = self._marks.popleft()
                mark = Mark(later.offset, later.sequence, mark.size_bytes + later.size_bytes)
            pairs.append(mark)
        self._marks = pairs


class FlushHistory:
    """How far the sink had come when: a record's own time does not tell when it reached the store.

    Args:
        known: As it was journaled.
        after_s: For how long it is of interest.
    """

    def __init__(self, known: FlushMarks, after_s: float) -> None:
        self._moments = deque(zip(known.times_ms, known.offsets, strict=True))
        self._after_ms = int(after_s * 1000)

    def note(self, offset: int | None, now_ms: int) -> FlushMarks | None:
        """Take the sink's position; return what is to be journaled, if anything."""
        moments = self._moments
        if offset is None:
            return None
        if moments and offset < moments[-1][1]:
            moments.clear()  # the sink has gone back: what it had written is not certain any more
        elif moments and (offset == moments[-1][1] or now_ms < moments[-1][0] + self._after_ms // MOMENTS):
            return None
        moments.append((now_ms, offset))
        while len(moments) > 1 and moments[1][0] <= now_ms - self._after_ms:
            moments.popleft()
        return FlushMarks(tuple(at for at, _ in moments), tuple(reached for _, reached in moments))

    def reached(self, now_ms: int) -> int:
        """Return the position that the sink had long enough ago."""
        return max((offset for at, offset in self._moments if at <= now_ms - self._after_ms), default=0)
