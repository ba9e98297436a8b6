"""What was written lately to agents that are not in memory: the store must have at least that. Pure.

A failover of the store may lose its last commits, any of them: one record may be there again while another one, written
before it, is not. So each record's sequence is remembered for as long as a failover may reach back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

LATE_S = 3_600.0
"""For how long it is known what the store must have at least."""
MAX_RECORDS = 100_000
"""Of how many records it is known."""


class LateWrites:
    """Sequences of records by their owner, bounded in time and number; beyond that the oldest owners are forgotten."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, tuple[float, dict[str, int]]] = OrderedDict()
        self._records = 0

    def note(self, owner: str, written: Mapping[str, int], now: float) -> None:
        """Remember records of an owner with the sequence of their last write; earlier ones of it stay remembered."""
        if not written:
            return
        _, known = self._owners.pop(owner, (0.0, dict[str, int]()))
        self._records -= len(known)
        for record, sequence in written.items():
            known[record] = max(sequence, known.get(record, 0))
        self._owners[owner] = (now, known)
        self._records += len(known)
        while self._owners and (self._records > MAX_RECORDS or self._oldest_s() < now - LATE_S):
            _, (_, gone) = self._owners.popitem(last=False)
            self._records -= len(gone)

    def of(self, owner: str, now: float) -> dict[str, int]:
        """Return the sequence that each record of an owner must have at least, of those that are known."""
        noted_at, known = self._owners.get(owner, (0.0, {}))
        return dict(known) if noted_at >= now - LATE_S else {}

    def forget(self, owner: str) -> None:
        """Forget an owner: the store had all of it."""
        _, known = self._owners.pop(owner, (0.0, {}))
        self._records -= len(known)

    def _oldest_s(self) -> float:
        return next(iter(self._owners.values()))[0]
