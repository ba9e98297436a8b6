"""A stand-in for Postgres: tables with the guard of the real ones, trouble of every kind, and failovers that lose."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from random import Random

from streams.errors import StoreUnavailable
from streams.memory.refusals import Contended
from streams.records.invocations import Result
from streams.records.state import StateDelta

Key = tuple[str, str]

REMEMBERED = 200
"""Transactions that a failover can undo."""


class Postgres:
    """Tables with the guard of the real ones. A write may happen and its answer be lost.

    Attributes:
        away: Nothing is answered.
    """

    def __init__(self, random: Random) -> None:
        self.state: dict[Key, StateDelta] = {}
        self.results: set[str] = set()
        self.away = False
        self._random = random
        self._undo: deque[tuple[float, dict[Key, StateDelta | None]]] = deque(maxlen=REMEMBERED)

    async def write_state(self, deltas: Sequence[StateDelta]) -> int:
        """Write what is newer than what is there."""
        await self._trouble()
        before: dict[Key, StateDelta | None] = {}
        for delta in deltas:
            key = (delta.owner, delta.record)
            known = self.state.get(key)
            if known is None or (known.epoch, known.sequence) < (delta.epoch, delta.sequence):
                before.setdefault(key, known)
                self.state[key] = delta
        if before:
            self._undo.append((asyncio.get_running_loop().time(), before))
        await self._trouble()
        return len(deltas)

    async def write_invocations(self, results: Sequence[Result]) -> int:
        """Write results."""
        await self._trouble()
        self.results.update(result.id for result in results)
        await self._trouble()
        return len(results)

    async def read_owners(self, owners: Collection[str]) -> list[StateDelta]:
        """Return all records of *owners*, as of some moment of the call."""
        await self._trouble()
        wanted = set(owners)
        found = [delta for (owner, _), delta in self.state.items() if owner in wanted]
        await self._trouble()
        return found

    async def versions(self, records: Collection[Key]) -> dict[Key, tuple[int, int]]:
        """Return (epoch, sequence) of those of *records* that exist."""
        await self._trouble()
        found = {key: self.state[key] for key in records if key in self.state}
        await self._trouble()
        return {key: (delta.epoch, delta.sequence) for key, delta in found.items()}

    async def close(self) -> None:
        """Nothing is open."""

    def fail_over(self, lost: int, within_s: float) -> None:
        """Go on with a replica that has not had the last *lost* rows, as far as they are of the last *within_s*.

        Whole transactions are lost, as of any replica: a write of which half the rows stayed never was in Postgres.
        """
        since_s = asyncio.get_running_loop().time() - within_s
        while lost > 0 and self._undo and self._undo[-1][0] > since_s:
            _, before = self._undo.pop()
            lost -= len(before)
            for key, delta in before.items():
                if delta is None:
                    self.state.pop(key, None)
                else:
                    self.state[key] = delta

    async def _trouble(self) -> None:
        await asyncio.sleep(self._random.random() * 0.02)
        if self.away or self._random.random() < 0.02:
            raise StoreUnavailable("away")
        if self._random.random() < 0.02:
            raise Contended("deadlock")
