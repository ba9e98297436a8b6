"""Reading back state that the shards of a process do not have in memory, many agents in one query.

Misses are collected for some milliseconds and read together; a few such reads may be under way. The breaker on the
store is asked before each and told after it. While the store is away misses wait here, without end: the deadlines of
the invocations behind them end that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from streams.breakers import Guard, Refusal
from streams.errors import StoreError, StoreUnavailable
from streams.observe.distribution import Distributions
from streams.observe.registry import COLD_SECONDS
from streams.records.state import StateDelta
from streams.shards.cold import Miss

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0
UNDER_WAY = 2


class StateSource(Protocol):
    """A store to read state from; see `streams.memory.cold`. Every call is bounded in time.

    All methods raise `StoreUnavailable` when it is away or silent, `StoreError` for what waiting does not mend.
    """

    async def read_owners(self, owners: Collection[str]) -> list[StateDelta]:
        """Return all records of *owners*, deleted ones too."""
        ...

    async def versions(self, records: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        """Return (epoch, sequence) of those of *records* (owner and name) that exist."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A miss, and whom to tell.

    Attributes:
        wanted: Asked before each attempt; False forgets the miss.
        deliver: Gets what the store has.
        stale: Told when the store has less than it had.
    """

    miss: Miss
    wanted: Callable[[str], bool]
    deliver: Callable[[str, tuple[StateDelta, ...]], None]
    stale: Callable[[], None]


@dataclass(slots=True)
class ReadCounters:
    """What was read so far, and how long each query took."""

    reads: int = 0
    agents: int = 0
    failures: int = 0
    took: Distributions = field(default_factory=lambda: Distributions(COLD_SECONDS))


class ColdReads:
    """Reads for all shards of a process.

    Args:
        guard: Breaker on the store.
        linger_s: Time for which misses are collected.
        batch: Most agents of one query.
        clock: Monotonic seconds.
        luck: Gives numbers uniform in [0, 1), for jitter.
        counters: Shared by the reads of several databases.

    Attributes:
        trouble: Why the last attempt failed; empty when it did not.
    """

    def __init__(
        self,
        source: StateSource,
        guard: Guard,
        *,
        linger_s: float,
        batch: int,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
        luck: Callable[[], float],
        counters: ReadCounters | None = None,
    ) -> None:
        self.guard = guard
        self.trouble = ""
        self.counters = counters or ReadCounters()
        self._source = source
        self._linger_s = linger_s
        self._batch = batch
        self._now_ms = now_ms
        self._clock = clock
        self._luck = luck
        self._asked: deque[Ask] = deque()
        self._arrived = asyncio.Event()
        self._slots = asyncio.Semaphore(UNDER_WAY)
        self._pause_s = 0.0
        self._reported: set[str] = set()

    def ask(self, ask: Ask) -> None:
        """Read an owner as soon as may be."""
        self._asked.append(ask)
        self._arrived.set()

    def __len__(self) -> int:
        return len(self._asked)

    async def run(self) -> None:
        """Read for ever; run it as a task."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._arrived.wait()
                await asyncio.sleep(self._pause_s * (0.5 + self._luck()) if self._pause_s else self._linger_s)
                await self._slots.acquire()
                group.create_task(self._read(self._take()))

    async def close(self) -> None:
        """Close the source, once nothing asks any more."""
        await self._source.close()

    async def versions(self, records: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        """Ask the store which versions it has (see `StateSource`), unless its breaker is open.

        Raises:
            StoreError: It is away, or the breaker says so.
        """
        return await self._guarded(lambda: self._source.versions(records))

    def _take(self) -> list[Ask]:
        taken: list[Ask] = []
        while self._asked and len(taken) < self._batch:
            ask = self._asked.popleft()
            if ask.wanted(ask.miss.owner):
                taken.append(ask)
            else:
                self._reported.discard(ask.miss.owner)
        if not self._asked:
            self._arrived.clear()
        return taken

    async def _read(self, asks: Sequence[Ask]) -> None:
        try:
            if asks:
                found = await self._guarded(lambda: self._query([ask.miss.owner for ask in asks]))
                self._pause_s, self.trouble = 0.0, ""
                self.counters.agents += len(asks)
                self._deliver(asks, found)
        except StoreError as error:
            if not self.trouble:
                log.warning("%s; invocations that need state from there wait", error)
            self.counters.failures += 1
            self._try_again(asks, str(error))
        finally:
            self._slots.release()

    def _deliver(self, asks: Sequence[Ask], found: Mapping[str, tuple[StateDelta, ...]]) -> None:
        stale = []
        for ask in asks:
            deltas = found.get(ask.miss.owner, ())
            if ask.miss.is_met(deltas):
                self._reported.discard(ask.miss.owner)
                ask.deliver(ask.miss.owner, deltas)
            else:
                stale.append(ask)
        if stale:
            problem = f"the store has lost writes that it had, of {stale[0].miss.owner!r} for one"
            owners = {ask.miss.owner for ask in stale}
            if owners - self._reported:
                log.error("%s; they are written again from the log", problem)
                self._reported |= owners
            self._try_again(stale, problem)
            for ask in stale:
                ask.stale()

    def _try_again(self, asks: Sequence[Ask], problem: str) -> None:
        self.trouble = problem
        self._pause_s = min(LAST_PAUSE_S, max(FIRST_PAUSE_S, self._pause_s * 2))
        self._asked.extendleft(reversed(asks))
        self._arrived.set()

    async def _query(self, owners: Collection[str]) -> dict[str, tuple[StateDelta, ...]]:
        found: dict[str, list[StateDelta]] = {}
        for delta in await self._source.read_owners(owners):
            found.setdefault(delta.owner, []).append(delta)
        return {owner: tuple(deltas) for owner, deltas in found.items()}

    async def _guarded(self, call: Callable[[], Awaitable[T]]) -> T:
        now_ms, began = self._now_ms(), self._clock()
        admitted = self.guard.admit(now_ms)
        if isinstance(admitted, Refusal):
            raise StoreUnavailable(f"the breaker on {self.guard.dependency} is open: {admitted.reason}")
        error: StoreError | None = None
        try:
            return await call()
        except StoreError as problem:
            error = problem
            raise
        finally:
            took_s = self._clock() - began
            self.counters.reads += 1
            self.counters.took[()].add(took_s)
            away = isinstance(error, StoreUnavailable)
            self.guard.record(admitted, away, took_s, self._now_ms(), type(error).__name__ if error else "")
