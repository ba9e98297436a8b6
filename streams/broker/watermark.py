"""Contiguous commit over work that finishes out of order. Pure."""

from __future__ import annotations

import heapq


class Watermark:
    """Which offset everything below is finished.

    Args:
        position: First offset that will be taken.
    """

    def __init__(self, position: int) -> None:
        self._next = position
        self._open: list[int] = []
        self._finished: set[int] = set()

    def take(self, offset: int) -> None:
        """Note that the record at *offset* is being worked on; offsets come in order."""
        heapq.heappush(self._open, offset)
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """Note that the record at *offset* is finished."""
        self._finished.add(offset)
        while self._open and self._open[0] in self._finished:
            self._finished.discard(heapq.heappop(self._open))

    @property
    def position(self) -> int:
        """The offset to commit: all records below it are finished."""
        return self._open[0] if self._open else self._next

    @property
    def read(self) -> int:
        """Offset of the next record that will be taken."""
        return self._next

    @property
    def unfinished(self) -> int:
        """Records taken and not finished; fewer than `len` while some are finished out of order."""
        return len(self._open) - len(self._finished)

    def advance(self, position: int) -> None:
        """Note that nothing is to be taken below *position*: what is there are markers."""
        self._next = max(self._next, position)

    def __len__(self) -> int:
        return len(self._open)
