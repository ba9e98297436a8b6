"""Invocations that a shard has finished, for the deduplication window."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from streams.records import decode_as
from streams.records.journal import Marker

NEVER_MS = float("inf")


class Markers:
    """Finished invocations, oldest first, bounded in time, count and bytes.

    They are kept as they are journaled: hardly any is ever looked at again, and decoding them all would be much of a
    restore.
    """

    def __init__(self, *, window_s: float, count: int, max_bytes: int) -> None:
        self._markers: OrderedDict[str, bytes] = OrderedDict()
        self._window_ms = window_s * 1000
        self._count = count
        self._max_bytes = max_bytes
        self._bytes = 0
        self._oldest: bytes | None = None
        self._expires_ms = NEVER_MS

    def __contains__(self, invocation: str) -> bool:
        return invocation in self._markers

    def get(self, invocation: str) -> Marker | None:
        """Return the marker of an invocation that finished within the window."""
        data = self._markers.get(invocation)
        return None if data is None else decode_as(Marker, data)

    def put(self, invocation: str, data: bytes) -> None:
        """Remember the encoded marker of an invocation that has finished."""
        if (old := self._markers.pop(invocation, None)) is not None:
            self._bytes -= len(old)
        self._markers[invocation] = data
        self._bytes += len(data)

    def replace(self, invocation: str, data: bytes) -> None:
        """Have another marker for an invocation, as old as it was."""
        self._bytes += len(data) - len(self._markers[invocation])
        self._markers[invocation] = data

    def of(self, owner: str) -> Iterator[tuple[str, Marker]]:
        """Yield the finished invocations of an agent instance; looks at all."""
        start = f"{owner}/"
        for invocation, data in self._markers.items():
            if invocation.startswith(start):
                yield invocation, decode_as(Marker, data)

    def expire(self, now_ms: int) -> Iterator[str]:
        """Forget and yield the invocations that are beyond a bound."""
        while self._markers:
            beyond = len(self._markers) > self._count or self._bytes > self._max_bytes
            if not beyond and self._oldest_expires_ms() > now_ms:
                return
            invocation, data = self._markers.popitem(last=False)
            self._bytes -= len(data)
            yield invocation

    @property
    def next_expiry_s(self) -> float:
        """When the oldest is beyond the window, in seconds since the epoch; infinite where there is none."""
        return self._oldest_expires_ms() / 1000

    def _oldest_expires_ms(self) -> float:
        """Asked at each step, so the marker is decoded only when another one has become the oldest."""
        oldest = next(iter(self._markers.values()), None)
        if oldest is not self._oldest:
            self._oldest = oldest
            self._expires_ms = (
                NEVER_MS if oldest is None else decode_as(Marker, oldest).finished_at_ms + self._window_ms
            )
        return self._expires_ms

    def __len__(self) -> int:
        return len(self._markers)
