"""What a shard remembers: state records of its agents, and markers of finished invocations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from streams.agents.state import StateView, log_entry
from streams.records.journal import Marker
from streams.records.state import StateDelta
from streams.records.versions import advance


@dataclass(slots=True)
class AgentRecords:
    """State of one agent instance: the latest delta of each record, and the length of each log."""

    deltas: dict[str, StateDelta] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    def put(self, delta: StateDelta) -> None:
        """Keep a delta as its record's latest."""
        self.deltas[delta.record] = delta
        name, hash_, position = delta.record.partition("#")
        if hash_:
            self.lengths[name] = max(self.lengths.get(name, 0), int(position) + 1)


class StateStore:
    """State records of all agents of a shard."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentRecords] = {}

    def put(self, delta: StateDelta) -> None:
        """Keep a delta as the latest of its record."""
        agent = self._agents.get(delta.owner)
        if agent is None:
            agent = self._agents[delta.owner] = AgentRecords()
        agent.put(delta)

    def of(self, owner: str) -> AgentRecords:
        """Return the records of an agent instance; empty for a new one."""
        return self._agents.get(owner) or AgentRecords()

    def view(self, owner: str) -> StateView:
        """Return the state as an invocation that begins now must see it until its end.

        The view shares nothing that a later delta replaces: values are looked up now, log entries never change.
        """
        records = self.of(owner)
        values = {
            name: delta.value
            for name, delta in records.deltas.items()
            if "#" not in name and delta.value is not None and not delta.deleted
        }

        def entry(name: str, position: int) -> bytes:
            return records.deltas[log_entry(name, position)].value or b"null"

        return StateView(values, dict(records.lengths), entry)

    def next_vector(self, owner: str, record: str, writer: str) -> dict[str, int]:
        """Return the version vector after one more write of *writer*."""
        latest = self.of(owner).deltas.get(record)
        return advance(latest.vector if latest else {}, writer)

    def __len__(self) -> int:
        return len(self._agents)


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
