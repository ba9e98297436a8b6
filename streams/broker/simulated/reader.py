"""Reading hand-assigned partitions of the simulated log."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Self

from streams.broker.port import Committed, Isolation, LogRecord, Partition
from streams.broker.simulated.link import Link
from streams.broker.simulated.partition import PartitionLog
from streams.broker.simulated.timing import LOG_CONTEXT
from streams.errors import BrokerUnavailable, PositionOutOfRange


class SimulatedReader:
    """See `streams.broker.port.Reader`."""

    def __init__(self, link: Link, isolation: Isolation, group: str | None) -> None:
        self._link = link
        self._log = link.log
        self._isolation: Isolation = isolation
        self._group = group
        self._positions: dict[Partition, int] = {}
        self._sources: dict[Partition, PartitionLog] = {}
        self._paused: dict[Partition, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._wanted: Collection[Partition] = ()
        self._waking = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._unfollow()

    async def assign(self, positions: Mapping[Partition, int]) -> None:
        """Replace the assignment; see the port."""
        wanted = dict(positions)
        sources = await self._link.request("assigning", lambda: {p: self._log.partition(p) for p in wanted})
        self._unfollow()
        self._sources = sources
        self._positions = wanted
        self._paused.clear()
        for source in sources.values():
            source.followers[self] = None

    async def poll(
        self, partitions: Collection[Partition] = (), *, max_records: int = 500, timeout_s: float = 1.0
    ) -> dict[Partition, list[LogRecord]]:
        """Return what has arrived; see the port."""
        process, log = self._link.process, self._log
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        # Half of the time as if it were in the buffer already, else after a fetch.
        await asyncio.sleep(0 if log.random.random() < 0.5 else log.latency_s())
        while True:
            if not process.running:
                await process.resumed()
            if loop.time() >= log.down_until_s:
                found = self._take(partitions, max_records)
                if found:
                    return found
            elif loop.time() - log.down_since_s > log.timing.request_timeout_s:
                raise BrokerUnavailable(
                    f"the simulated log has not answered for {log.timing.request_timeout_s:g} s (reading)"
                )
            left = deadline - loop.time()
            if left <= 0:
                return {}
            if log.down_until_s > loop.time():
                left = min(left, log.down_until_s - loop.time() + log.latency_s())
            waiter = self._waiter = loop.create_future()
            self._wanted = partitions
            timer = loop.call_later(left, _resolve, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiter = None

    def pause(self, partitions: Collection[Partition]) -> None:
        """Stop returning records of *partitions*."""
        for partition in partitions:
            self._paused[partition] = None

    def resume(self, partitions: Collection[Partition]) -> None:
        """Undo `pause`."""
        for partition in partitions:
            self._paused.pop(partition, None)
            self.arrived(partition)

    async def position(self, partition: Partition) -> int:
        """Offset of the next record to be returned."""
        return self._positions[partition]

    async def seek(self, partition: Partition, offset: int) -> None:
        """Continue *partition* at *offset*."""
        if partition not in self._positions:
            raise ValueError(f"partition {partition.topic}[{partition.number}] is not assigned to this reader")
        self._positions[partition] = offset
        self.arrived(partition)

    async def commit(self, positions: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None) -> None:
        """Commit *positions* to the reader's memberless group."""
        if self._group is None:
            raise ValueError("this reader has no group to commit to; make it with reader(group=...)")
        group, known = self._group, notes or {}
        committed = {p: Committed(offset, known.get(p, "")) for p, offset in positions.items()}
        await self._link.request("committing positions", lambda: self._log.commit_offsets(group, committed))

    def arrived(self, partition: Partition) -> None:
        """Wake a poll that waits for *partition*, after the time that a fetch takes."""
        if self._waiter is None or self._waking or partition in self._paused:
            return
        if self._wanted and partition not in self._wanted:
            return
        self._waking = True
        asyncio.get_running_loop().call_later(self._log.latency_s(), self._wake, context=LOG_CONTEXT)

    def _wake(self) -> None:
        self._waking = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self, partitions: Collection[Partition], max_records: int) -> dict[Partition, list[LogRecord]]:
        candidates = [p for p in (partitions or self._positions) if p not in self._paused and p in self._positions]
        if len(candidates) > 1:
            # Kafka answers with whatever partition it comes to first.
            start = int(self._log.random.random() * len(candidates))
            candidates = candidates[start:] + candidates[:start]
        found: dict[Partition, list[LogRecord]] = {}
        for partition in candidates:
            source, position = self._sources[partition], self._positions[partition]
            if source.deleted:
                if not self._log.has(partition):
                    continue
                # The topic was made anew; the reader goes on at its old position, as it does on Kafka.
                source = self._sources[partition] = self._log.partition(partition)
                source.followers[self] = None
            if not source.begin <= position <= source.end:
                if found:
                    return found
                raise PositionOutOfRange(
                    f"position {position} of {partition.topic}[{partition.number}] is outside the log "
                    f"({source.begin} to {source.end}); retention has passed it or the topic was made anew, so records "
                    "are missing"
                )
            if position >= source.stable and self._isolation == "read_committed":
                continue
            records, self._positions[partition] = source.read(position, max_records, self._isolation)
            if records:
                found[partition] = records
                max_records -= len(records)
                if max_records <= 0:
                    break
        return found

    def _unfollow(self) -> None:
        for source in self._sources.values():
            source.followers.pop(self, None)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
