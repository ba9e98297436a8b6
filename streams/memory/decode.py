"""From what was read to rows: decoding, and what is done with bytes that cannot be decoded.

Pure. Corrupt bytes are refused (they go to dead-letters). A schema that this process does not know means a rolling
deploy: the partition is held at that record, so that nothing is lost and nothing passes silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streams.broker.port import LogRecord, Partition
from streams.errors import CodecError, UnknownSchema
from streams.records.codec import decode_as
from streams.records.headers import is_json
from streams.records.invocations import Result
from streams.records.json import result_from_json
from streams.records.state import StateDelta

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Row(Generic[R]):
    """A record, and where it was read: needed whole should Postgres refuse it."""

    record: R
    source: LogRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that goes to dead-letters."""

    source: LogRecord
    error_type: str
    reason: str


@dataclass(slots=True)
class Batch:
    """What one round of reading gave.

    Attributes:
        held: Partitions to be held, with the offset at which, and why; nothing from there on is in the batch.
    """

    states: list[Row[StateDelta]] = field(default_factory=list)
    results: list[Row[Result]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    held: dict[Partition, tuple[int, str]] = field(default_factory=dict)


def decode_batch(records: Mapping[Partition, Sequence[LogRecord]], *, states: str, results: str) -> Batch:
    """Decode what was read.

    Args:
        states: Name of the topic of state deltas; tombstones there only mean "no longer kept in the log".
        results: Name of the topic of results.
    """
    batch = Batch()
    for partition, read in records.items():
        for source in read:
            if source.value is None:
                continue
            try:
                if partition.topic == states:
                    batch.states.append(Row(decode_as(StateDelta, source.value), source))
                elif is_history(result := _result(source, source.value)):
                    batch.results.append(Row(result, source))
            except UnknownSchema as error:
                batch.held[partition] = (source.offset, str(error))
                break
            except CodecError as error:
                batch.refused.append(Refused(source, type(error).__name__, str(error)))
    return batch


def is_history(result: Result) -> bool:
    """Tell whether a result says how its invocation ended.

    A repetition says it again; a deferral and a conflict refuse a submission and leave the invocation of that ID, if
    there is one, as it is.
    """
    return not (result.repeated or result.status == "deferred" or result.error_type == "Conflict")


def _result(source: LogRecord, value: bytes) -> Result:
    return result_from_json(value) if is_json(source.headers) else decode_as(Result, value)
