"""Invocations that a shard has finished, for the deduplication window."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from streams.records.journal import Marker


class Markers:
    """Finished invocations, oldest first, bounded in time, count and bytes."""

    def __init__(self, *, window_s: float, count: int, max_bytes: int) -> None:
        self._markers: OrderedDict[str, Marker] = OrderedDict()
        self._window_ms = window_s * 1000
        self._count = count
        self._max_bytes = max_bytes
        self._bytes = 0

    def get(self, invocation: str) -> Marker | None:
        """Return the marker of an invocation that finished within the window."""
        return self._markers.get(invocation)

    def put(self, invocation: str, marker: Marker) -> None:
        """Remember an invocation that has finished."""
        if (old := self._markers.pop(invocation, None)) is not None:
            self._bytes -= len(old.result)
        self._markers[invocation] = marker
        self._bytes += len(marker.result)

    def replace(self, invocation: str, marker: Marker) -> None:
        """Have another marker for an invocation, as old as it was."""
        self._bytes += len(marker.result) - len(self._markers[invocation].result)
        self._markers[invocation] = marker

    def of(self, owner: str) -> Iterator[tuple[str, Marker]]:
        """Yield the finished invocations of an agent instance; looks at all."""
        start = f"{owner}/"
        for invocation, marker in self._markers.items():
            if invocation.startswith(start):
                yield invocation, marker

    def expire(self, now_ms: int) -> Iterator[str]:
        """Forget and yield the invocations that are beyond a bound."""
        while self._markers:
            invocation, oldest = next(iter(self._markers.items()))
            beyond = len(self._markers) > self._count or self._bytes > self._max_bytes
            if not beyond and oldest.finished_at_ms + self._window_ms > now_ms:
                return
            del self._markers[invocation]
            self._bytes -= len(oldest.result)
            yield invocation

    @property
    def next_expiry_s(self) -> float:
        """When the oldest is beyond the window, in seconds since the epoch; infinite where there is none."""
        if not self._markers:
            return float("inf")
        return (next(iter(self._markers.values())).finished_at_ms + self._window_ms) / 1000

    def __len__(self) -> int:
        return len(self._markers)
