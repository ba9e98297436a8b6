"""The meter: how many invocations of each agent wait unread, and how old the oldest is. Exact, from keys and headers.

Each record is read once, as it comes, and nothing of its value is decoded: the agent is the first part of the key, the
priority a header. Kept are offset and timestamp of what is unread, 16 bytes each, so that a position that moves on
needs one search per agent and no second look at any record. Transaction markers and records of aborted transactions,
which count in offsets, are not among them.

    meter = AgentQueues(broker.admin, partitions)
    await meter.follow(positions, ends, budget_s=0.2)
    meter.queues()                # {"dispute": Queue(depth=4200, oldest_ms=...)}

Over 100,000 records a second go through it (`make bench ONLY=backpressure`, `meter_records_per_s`).
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from streams.broker.port import Admin, Partition, Skimmed
from streams.records.headers import LOW, PRIORITY
from streams.records.load import OTHERS, Queue

MOST_KEPT = 2_000_000
MOST_AGENTS = 1_000
# Heads of queues are cut off once so much of them is read.
_SPARE = 4_096


class _Line:
    """Unread records of one agent on one partition, in the order of their offsets."""

    __slots__ = ("head", "offsets", "stamps")

    def __init__(self) -> None:
        self.offsets = array("q")
        self.stamps = array("q")
        self.head = 0

    def pass_(self, position: int) -> int:
        """Forget what is below *position*; return how many that were."""
        head = bisect_left(self.offsets, position, self.head)
        gone, self.head = head - self.head, head
        if head > _SPARE and head * 2 > len(self.offsets):
            del self.offsets[:head], self.stamps[:head]
            self.head = 0
        return gone


class PartitionQueues:
    """Unread records of one partition, by agent. Pure.

    Args:
        position: First offset that counts.
    """

    def __init__(self, position: int) -> None:
        self.begin = position
        self.next = position
        self.kept = 0
        self.low = 0
        self._lines: dict[bytes, _Line] = {}

    def take(self, skimmed: Skimmed) -> None:
        """Add what was read, in the order of its offsets."""
        lines, low = self._lines, 0
        for offset, stamp, key, priority in skimmed.records:
            name = (key or b"").partition(b"/")[0]
            line = lines.get(name)
            if line is None:
                line = self._line(name)
            line.offsets.append(offset)
            line.stamps.append(stamp)
            if priority == LOW:
                low += 1
        self.low += low
        self.kept += len(skimmed.records)
        self.next = max(self.next, skimmed.position)

    def pass_(self, position: int) -> None:
        """Forget what is below *position*."""
        self.begin = position
        self.kept -= sum(line.pass_(position) for line in self._lines.values())
        self.next = max(self.next, position)

    def queues(self) -> Iterable[tuple[str, Queue]]:
        """Return depth and oldest timestamp of each agent that has unread records."""
        for name, line in self._lines.items():
            if depth := len(line.offsets) - line.head:
                yield name.decode("utf-8", "replace"), Queue(depth, line.stamps[line.head])

    def _line(self, name: bytes) -> _Line:
        if len(self._lines) >= MOST_AGENTS:
            # Keys are anybody's to choose. Emptied lines go first; then the rest is one.
            self._lines = {name: line for name, line in self._lines.items() if line.head < len(line.offsets)}
            if len(self._lines) >= MOST_AGENTS:
                name = OTHERS.encode()
        return self._lines.setdefault(name, _Line())


class AgentQueues:
    """Follows the partitions of invocations between their positions and their ends.

    Attributes:
        uncounted: Records that are unread and were not looked at yet: there are more than it keeps, or they came in
            faster than it may read. 0 means that `queues` is exact.
    """

    def __init__(self, admin: Admin, partitions: Iterable[Partition]) -> None:
        self._admin = admin
        self._turn = 0
        self._partitions = {partition: PartitionQueues(0) for partition in partitions}
        self.uncounted = 0

    async def follow(
        self, positions: Mapping[Partition, int], ends: Mapping[Partition, int], *, budget_s: float
    ) -> None:
        """Read on up to *ends*, and forget what is below *positions*.

        Args:
            budget_s: Seconds after which it stops reading for this time.

        Raises:
            BrokerError: The log does not answer.
        """
        for partition, position in positions.items():
            self._place(partition, position)
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        while loop.time() < until and sum(queues.kept for queues in self._partitions.values()) < MOST_KEPT:
            behind = {p: queues.next for p, queues in self._partitions.items() if queues.next < ends[p]}
            # In another order each time, since an answer may have no room for the last ones.
            self._turn += 1
            order = sorted(behind, key=lambda p: (p.number + self._turn) % len(self._partitions))
            skimmed = await self._admin.skim({partition: behind[partition] for partition in order}, PRIORITY)
            for partition, found in skimmed.items():
                self._partitions[partition].take(found)
            if not any(found.position > behind[partition] for partition, found in skimmed.items()):
                break  # what is left is not committed, or out of reach
        self.uncounted = sum(max(0, ends[p] - queues.next) for p, queues in self._partitions.items())

    def _place(self, partition: Partition, position: int) -> None:
        """Forget what is below *position*; start there where it has gone back."""
        queues = self._partitions[partition]
        if position >= queues.begin:
            queues.pass_(position)
            return
        self._partitions[partition] = PartitionQueues(position)
        self._partitions[partition].low = queues.low

    def queues(self) -> dict[str, Queue]:
        """Return depth and oldest timestamp (ms since the epoch) of the unread invocations of each agent."""
        return merged(entry for queues in self._partitions.values() for entry in queues.queues())

    def low_priority(self, topic: str) -> int:
        """Return how many records of low priority *topic* has had since the start."""
        return sum(queues.low for partition, queues in self._partitions.items() if partition.topic == topic)


def merged(entries: Iterable[tuple[str, Queue]]) -> dict[str, Queue]:
    """Return the queues of each agent as one."""
    found: dict[str, Queue] = {}
    for name, queue in entries:
        known = found.get(name)
        found[name] = queue if known is None else Queue(known.depth + queue.depth, min(known[1], queue.oldest_ms))
    return found
