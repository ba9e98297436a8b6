"""What dispatchers tell of their pools on the `pools` topic, and what `streams llm status` makes of it.

Soft state: a report is lost with nothing but its second, and a reporter that falls silent is gone after its time to
live.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import orjson

from streams.broker.port import Broker, Message, Partition, Producer
from streams.errors import BrokerError, CodecError
from streams.llm.pool_status import PoolStatus
from streams.records import decode_as, encode, headers
from streams.records.control import Limit, PoolReport
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

TTL_INTERVALS = 5
"""Reports of a pool that may be missed before its dispatcher counts as gone."""

RECENT_MS = 60_000


def report_of(
    status: PoolStatus, reporter: str, now_ms: int, ttl_s: float, changes: Sequence[Limit] = ()
) -> PoolReport:
    """Return the record that tells of a pool; infinite numbers become null.

    Args:
        changes: The live changes to its limits that hold.
    """
    changed = [
        {"subject": change.subject, "by": change.changed_by, "reason": change.reason, "at_ms": change.at_ms}
        for change in changes
    ]
    body = orjson.dumps(
        {
            "held": status.held,
            "running": status.running,
            "oldest_s": status.oldest_s,
            "expected_wait_s": status.expected_wait_s,
            "down": status.down,
            "changed": changed,
            "counts": status.counts,
            "keys": status.keys,
        }
    )
    return PoolReport(status.name, reporter, now_ms, ttl_s, body)


async def report_pools(
    producer: Producer,
    catalogue: Catalogue,
    reports: Callable[[float], Iterable[PoolReport]],
    *,
    every_s: float,
) -> None:
    """Write what *reports* gives for a time to live, for ever; run it as a task."""
    topic = catalogue.name("pools")
    ttl_s = TTL_INTERVALS * every_s
    silent = False
    while True:
        messages = [
            Message(topic, f"{report.pool}/{report.reporter}".encode(), encode(report), 0, headers.internal("pool"))
            for report in reports(ttl_s)
        ]
        try:
            if messages:
                await producer.send(*messages)
            silent = False
        except BrokerError as error:
            if not silent:
                log.warning("the state of the model pools is not reported: %s", error)
            silent = True
        await asyncio.sleep(every_s)


async def read_reports(broker: Broker, catalogue: Catalogue, now_ms: int) -> list[PoolReport]:
    """Return the latest report of each pool and dispatcher that is not gone, by pool and name of the dispatcher."""
    place = Partition(catalogue.name("pools"), 0)
    found: dict[tuple[str, str], PoolReport] = {}
    end = (await broker.admin.end_offsets([place]))[place]
    start = (await broker.admin.offsets_at({place: now_ms - RECENT_MS}))[place]
    async with broker.reader() as reader:
        await reader.assign({place: start})
        while await reader.position(place) < end:
            for records in (await reader.poll(max_records=5_000, timeout_s=0.2)).values():
                for record in records:
                    try:
                        report = decode_as(PoolReport, record.value or b"")
                    except CodecError as error:
                        log.warning("a report of %s is not readable: %s", place.topic, error)
                        continue
                    found[report.pool, report.reporter] = report
    return [report for _, report in sorted(found.items()) if now_ms <= report.at_ms + report.ttl_s * 1000]
