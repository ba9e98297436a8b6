"""Deleting work that nobody needs any more: below its reader's durable position and older than the history.

Topics of work have no time limit, so that an outage of any length loses nothing; their reader deletes instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams.broker.port import Admin, Partition


async def delete_consumed(admin: Admin, durable: Mapping[Partition, int], older_than_ms: int) -> None:
    """Delete what is both below *durable* and stamped before *older_than_ms*.

    Args:
        durable: For each partition, the position up to which everything is processed for good.
        older_than_ms: Milliseconds since the epoch.

    Raises:
        BrokerUnavailable: The log does not answer; nothing is lost, it is done next time.
    """
    if not durable:
        return
    old = await admin.offsets_at(dict.fromkeys(durable, older_than_ms))
    await admin.delete_records({partition: min(offset, old[partition]) for partition, offset in durable.items()})
