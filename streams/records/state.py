"""What agents remember: one delta for each record of state that a transaction changed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StateDelta:
    """The new value of one record of an agent's state (a field of its model, an entry of a log, a shared record).

    Attributes:
        owner: Agent ID; `shared/name/key` for a shared record, which is so owned by the shard of that text.
        record: Field name; `field#000000000042` for an entry of a log; `value` of a shared record.
        value: JSON; None with `deleted`.
        deleted: The record is gone. A tombstone (no value at all) only means "no longer kept in the log".
        vector: Version vector: writer to count of its writes; see `streams.records.versions`.
        epoch: Ownership epoch of the shard; with `sequence` it orders all writes of a partition.
        sequence: Grows with every write of the partition.
    """

    owner: str
    record: str
    value: bytes | None
    epoch: int
    sequence: int
    writer: str
    at_ms: int
    deleted: bool = False
    invocation: str = ""
    vector: dict[str, int] = field(default_factory=dict)
