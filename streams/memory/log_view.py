"""State as the log has it: the writes to an owner, a partition with its places, what is not flushed yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from streams.broker.partitioning import partition_for
from streams.broker.port import Broker, Partition
from streams.broker.table import read_to_end
from streams.errors import CodecError, StoreError
from streams.memory.agreement import Logged
from streams.records import decode_as
from streams.records.state import StateDelta
from streams.records.topics import Catalogue

MAX_UNFLUSHED = 1_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """What there is of a partition to be read.

    Attributes:
        watermark: Offset below which the sink has written everything.
    """

    partition: Partition
    begin: int
    end: int
    watermark: int


class LogView:
    """Reads `state-deltas`."""

    def __init__(self, broker: Broker, catalogue: Catalogue) -> None:
        self._broker = broker
        self._catalogue = catalogue

    async def spans(self) -> list[Span]:
        """Return what each partition has."""
        topic = self._catalogue.name("state-deltas")
        partitions = [Partition(topic, number) for number in range(self._catalogue.partitions)]
        admin = self._broker.admin
        begins, ends = await admin.begin_offsets(partitions), await admin.end_offsets(partitions)
        flushed = await admin.group_offsets(self._catalogue.flush_group, partitions)
        return [Span(p, begins[p], ends[p], flushed.get(p, begins[p])) for p in partitions]

    async def of_owner(self, owner: str) -> tuple[list[Logged], Span]:
        """Return the writes to an owner that the log still has, in their order, and the span of their partition."""
        number = partition_for(owner.encode(), self._catalogue.partitions)
        span = (await self.spans())[number]
        found = [each async for batch in self.batches(span) for each in batch if each.delta.owner == owner]
        return found, span

    async def batches(self, span: Span) -> AsyncIterator[list[Logged]]:
        """Yield the records of a partition in batches, up to the end that it had; tombstones are left out."""
        async for records in read_to_end(self._broker, [span.partition]):
            batch = []
            for record in records:
                if record.value is None:
                    continue
                try:
                    delta = decode_as(StateDelta, record.value)
                except CodecError as error:
                    place = f"{record.topic}[{record.partition}]@{record.offset}"
                    raise StoreError(f"{place} is no state delta: {error}") from error
                batch.append(Logged(delta, record.partition, record.offset))
            yield batch

    async def unflushed(self) -> dict[tuple[str, str], StateDelta]:
        """Return the latest writes that the sink has not written yet.

        Raises:
            StoreError: They are more than a million: the sink is behind, or not running.
        """
        found: dict[tuple[str, str], StateDelta] = {}
        for span in await self.spans():
            if span.end - max(span.begin, span.watermark) > MAX_UNFLUSHED:
                raise StoreError(
                    f"{span.end - span.watermark:,} records of {span.partition.topic}[{span.partition.number}] are not "
                    f"in Postgres yet, more than {MAX_UNFLUSHED:,}; run the role `memory` first"
                )
            if span.end > span.watermark:
                async for batch in self.batches(span):
                    found |= {each.name: each.delta for each in batch if each.offset >= span.watermark}
        return found
