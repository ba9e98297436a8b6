"""Setting aside what cannot be processed: its bytes, where it came from, why."""

from __future__ import annotations

import time

from streams.broker.port import LogRecord, Message
from streams.records import encode, headers
from streams.records.control import DeadLetter

MAX_REASON_CHARS = 4_000


def dead_letter(record: LogRecord, error: Exception, set_aside_by: str) -> bytes:
    """Return the encoded dead letter of a record, with its bytes, origin and reason."""
    return encode(
        DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            key=record.key,
            value=record.value,
            error_type=type(error).__name__,
            reason=str(error)[:MAX_REASON_CHARS],
            at_ms=int(time.time() * 1000),
            set_aside_by=set_aside_by,
            headers=dict(record.headers),
        )
    )


def dead_letter_message(topic: str, record: LogRecord, error: Exception, set_aside_by: str) -> Message:
    """Return the message that sets a record aside on *topic*, on the partition that it came from."""
    letter = dead_letter(record, error, set_aside_by)
    return Message(topic, record.key, letter, record.partition, headers.internal("dead-letter"))
