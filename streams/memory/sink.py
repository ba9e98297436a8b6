"""Writing one batch: until everything in it is in Postgres or set aside, however long Postgres is away.

Rows that Postgres refuses are found by bisection and go to dead-letters with their bytes and the reason. The breaker on
Postgres is asked before each attempt and told after it. What to read, and what to commit after, is the role's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from streams.breakers import Guard, Refusal
from streams.broker.port import Message, Producer
from streams.errors import BrokerUnavailable, RecordTooLarge, StoreError, StoreUnavailable
from streams.memory.coalesce import newest_results, newest_states
from streams.memory.decode import Batch, Refused, Row
from streams.memory.refusals import Contended, RowRefused
from streams.observe.distribution import Distributions
from streams.observe.registry import SINK_FLUSH
from streams.records.codec import encode
from streams.records.control import DeadLetter
from streams.records.invocations import Result
from streams.records.state import StateDelta

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1


class Store(Protocol):
    """What the sink needs of a store; see `PostgresStore`, which is one."""

    async def write_state(self, deltas: Sequence[StateDelta]) -> int: ...
    async def write_invocations(self, results: Sequence[Result]) -> int: ...


class Abandoned(Exception):
    """The partitions are wanted elsewhere: the batch was given up, and its positions must not be committed."""


@dataclass(slots=True)
class SinkCounts:
    """What a sink did so far.

    Attributes:
        read: Rows that were decoded.
        written: Rows that were sent to Postgres after coalescing.
        changed: Rows there that changed by it; the others were met by something newer, or by themselves.
        set_aside: Records that went to dead-letters.
        flushes: How long each batch took.
        failures: Attempts that failed because Postgres was away.
    """

    read: int = 0
    written: int = 0
    changed: int = 0
    set_aside: int = 0
    failures: int = 0
    flushes: Distributions = field(default_factory=lambda: Distributions(SINK_FLUSH))


class Sink:
    """Writes batches.

    Args:
        guard: Breaker on Postgres.
        dead_letters: Name of the topic.
        luck: Gives numbers uniform in [0, 1), for jitter.
    """

    def __init__(
        self,
        store: Store,
        producer: Producer,
        guard: Guard,
        counts: SinkCounts,
        *,
        dead_letters: str,
        retry_ceiling_s: float,
        now_ms: Callable[[], int],
        luck: Callable[[], float],
    ) -> None:
        self._store = store
        self._producer = producer
        self._guard = guard
        self._dead_letters = dead_letters
        self._ceiling_s = retry_ceiling_s
        self._now_ms = now_ms
        self._luck = luck
        self.counts = counts

    async def write(self, batch: Batch, wanted: Callable[[], bool]) -> None:
        """Return when all of *batch* is written or set aside.

        Args:
            wanted: Asked before each attempt; False gives the batch up.

        Raises:
            Abandoned: It was given up. Part of it may be written, which does no harm.
        """
        began_ms = self._now_ms()
        states, results = newest_states(batch.states), newest_results(batch.results)
        self.counts.read += len(batch.states) + len(batch.results)
        await self._write(states, self._store.write_state, wanted)
        await self._write(results, self._store.write_invocations, wanted)
        for refused in batch.refused:
            await self._set_aside(refused, wanted)
        if batch.states or batch.results:
            self.counts.flushes[()].add((self._now_ms() - began_ms) / 1000)

    async def _write(
        self, rows: Sequence[Row[Any]], write: Callable[[Sequence[Any]], Awaitable[int]], wanted: Callable[[], bool]
    ) -> None:
        if not rows:
            return
        try:
            changed = await self._until_written(lambda: write([row.record for row in rows]), wanted)
        except RowRefused as error:
            if len(rows) == 1:
                await self._set_aside(Refused(rows[0].source, "RowRefused", str(error)), wanted)
                return
            middle = len(rows) // 2
            await self._write(rows[:middle], write, wanted)
            await self._write(rows[middle:], write, wanted)
        else:
            self.counts.written += len(rows)
            self.counts.changed += changed

    async def _until_written(self, attempt: Callable[[], Awaitable[int]], wanted: Callable[[], bool]) -> int:
        pause_s, failed_since_ms = _FIRST_PAUSE_S, 0
        while wanted():
            now_ms = self._now_ms()
            admitted = self._guard.admit(now_ms)
            if isinstance(admitted, Refusal):
                # Asking again soon is what makes the control plane lease the probe to this sink.
                await self._pause(min(1.0, self._ceiling_s))
                continue
            try:
                changed = await attempt()
            except StoreUnavailable as error:
                self._record(admitted, now_ms, error)
                self.counts.failures += 1
                if not failed_since_ms:
                    failed_since_ms = now_ms
                    log.warning("%s; trying until it is back, nothing is lost meanwhile", error)
            except Contended as error:
                self._record(admitted, now_ms, None)
                log.info("%s; trying again", error)
            except RowRefused:
                self._record(admitted, now_ms, None)
                raise
            except StoreError as error:
                self._record(admitted, now_ms, None)
                log.error("%s; trying again", error)
            else:
                self._record(admitted, now_ms, None)
                if failed_since_ms:
                    log.warning("Postgres is back after %.1f s", (self._now_ms() - failed_since_ms) / 1000)
                return changed
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, self._ceiling_s)
        raise Abandoned

    async def _set_aside(self, refused: Refused, wanted: Callable[[], bool]) -> None:
        source = refused.source
        where = f"{source.topic}[{source.partition}] at {source.offset}"
        log.error("a record of %s goes to dead-letters: %s", where, refused.reason)
        pause_s, whole = _FIRST_PAUSE_S, True
        while wanted():
            letter = encode(self._letter(refused, whole))
            try:
                await self._producer.send(Message(self._dead_letters, source.key, letter))
            except RecordTooLarge:
                if not whole:
                    raise
                whole = False
                continue
            except BrokerUnavailable as error:
                log.warning("%s; trying again", error)
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, self._ceiling_s)
                continue
            self.counts.set_aside += 1
            return
        raise Abandoned

    def _letter(self, refused: Refused, whole: bool) -> DeadLetter:
        source = refused.source
        reason = refused.reason if whole else f"{refused.reason} (too large for dead-letters, so without its value)"
        return DeadLetter(
            source.topic,
            source.partition,
            source.offset,
            source.timestamp_ms,
            source.key,
            source.value if whole else None,
            refused.error_type,
            reason[:4096],
            self._now_ms(),
            "memory",
            dict(source.headers),
        )

    def _record(self, admitted: Any, started_ms: int, error: Exception | None) -> None:
        now_ms = self._now_ms()
        name = type(error).__name__ if error is not None else ""
        self._guard.record(admitted, error is not None, (now_ms - started_ms) / 1000, now_ms, name)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * (0.5 + self._luck()))
