"""The `usage` topic as a reader wants it: one sum for each tenant, model and window, over all shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from streams.broker.port import Broker, Partition
from streams.broker.table import read_to_end
from streams.errors import CodecError
from streams.records import decode_as
from streams.records.control import Usage
from streams.records.topics import Catalogue


async def read_usage(broker: Broker, catalogue: Catalogue, since_ms: int = 0) -> list[Usage]:
    """Return what each tenant used of each model in the windows that begin at or after *since_ms*."""
    rows: dict[bytes | None, Usage] = {}
    async for batch in read_to_end(broker, [Partition(catalogue.name("usage"), 0)]):
        for record in batch:
            try:
                row = decode_as(Usage, record.value or b"")
            except CodecError:
                continue  # a tombstone, or a later version's
            known = rows.get(record.key)
            if row.window_start_ms >= since_ms and (known is None or row.through >= known.through):
                rows[record.key] = row
    return sum_up(rows.values())


def sum_up(rows: Iterable[Usage]) -> list[Usage]:
    """Return rows summed over shards, by window, tenant and model."""
    sums: dict[tuple[int, str, str], Usage] = {}
    for row in rows:
        key = (row.window_start_ms, row.tenant, row.model)
        known = sums.get(key) or Usage(row.tenant, row.model, row.window_start_ms, 0, 0, 0, 0.0)
        sums[key] = replace(
            known,
            requests=known.requests + row.requests,
            input_tokens=known.input_tokens + row.input_tokens,
            output_tokens=known.output_tokens + row.output_tokens,
            cost=known.cost + row.cost,
        )
    return [sums[key] for key in sorted(sums)]
