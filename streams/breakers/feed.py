"""Between the machines of this room and the log: following `breakers`, reporting to `outcomes`.

Soft state both ways. A process that does not hear the fleet decides for itself, and a digest that is lost is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from random import Random

from streams.broker.port import Broker, LogRecord, Message, Partition, Producer
from streams.broker.table import Table
from streams.errors import BrokerError, CodecError
from streams.records.codec import decode_as, encode
from streams.records.control import BreakerState, OutcomeDigest
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)


def breakers_table(
    broker: Broker, catalogue: Catalogue, apply: Callable[[BreakerState], object], *, random: Random | None = None
) -> Table:
    """Return a table, not yet entered, that tells *apply* every record of the fleet's breakers.

    Pass `BreakerView.apply`, or what hands a record to the `Guard` of its dependency; *random* as for `Table`.
    """

    def on_record(record: LogRecord) -> None:
        if record.value is None:
            return
        try:
            apply(decode_as(BreakerState, record.value))
        except CodecError as error:
            log.warning("a record of %s[%d] is ignored: %s", record.topic, record.partition, error)

    table = Table(broker, partitions_of(catalogue, "breakers"), random=random)
    table.on_record(on_record)
    return table


async def report_outcomes(
    producer: Producer,
    catalogue: Catalogue,
    drain: Callable[[int], Iterable[OutcomeDigest]],
    *,
    every_s: float,
    now_ms: Callable[[], int],
) -> None:
    """Send what *drain* gives to `outcomes`, for ever; run it as a task. Digests that cannot be sent are dropped.

    Args:
        drain: `Guard.drain` or `BreakerView.drain`, or one that joins several.
    """
    topic = catalogue.name("outcomes")
    while True:
        await asyncio.sleep(every_s)
        digests = [Message(topic, d.dependency.encode(), encode(d)) for d in drain(now_ms())]
        if not digests:
            continue
        try:
            await producer.send(*digests)
        except BrokerError as error:
            log.warning("%d digests for the breakers were not sent: %s", len(digests), error)


def partitions_of(catalogue: Catalogue, kind: str) -> tuple[Partition, ...]:
    """Return every partition of a topic of the catalogue, its lanes left out."""
    plan = next(plan for plan in catalogue.topics() if plan.name == catalogue.name(kind))
    return tuple(Partition(plan.name, number) for number in range(plan.partitions))
