"""One partition of the simulated log: records in memory, the markers between them, and what a reader may see."""

from __future__ import annotations

from typing import Protocol

from streams.broker.port import Isolation, LogRecord, Partition

_SLICE = 256


class Follower(Protocol):
    """Told when a partition has something new to read."""

    def arrived(self, partition: Partition) -> None:
        """Something new may be readable in *partition*."""
        ...


class Transaction:
    """What one transaction has written: offsets by partition."""

    __slots__ = ("offsets", "started_s")

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.offsets: dict[PartitionLog, list[int]] = {}


class PartitionLog:
    """The records of one partition.

    An entry is None where nobody finds a record: a transaction marker, an aborted record, one that was compacted away.
    """

    __slots__ = ("_aborted", "_base", "_open", "_records", "begin", "deleted", "followers", "partition")

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.begin = 0
        self.deleted = False
        self.followers: dict[Follower, None] = {}
        self._records: list[LogRecord | None] = []
        self._base = 0
        # First offset of each open transaction, oldest first, as offsets only grow.
        self._open: dict[Transaction, int] = {}
        self._aborted: dict[int, LogRecord] = {}

    @property
    def end(self) -> int:
        """Offset after the last entry."""
        return self._base + len(self._records)

    @property
    def stable(self) -> int:
        """The last stable offset: everything below it is decided."""
        return next(iter(self._open.values())) if self._open else self._base + len(self._records)

    def end_for(self, isolation: Isolation) -> int:
        """Return the end that a reader with *isolation* sees."""
        return self.stable if isolation == "read_committed" else self.end

    def append(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes], ...],
        transaction: Transaction | None = None,
    ) -> int:
        """Append a record and return its offset; followers are told by `tell`, so that a batch tells them once."""
        records = self._records
        offset = self._base + len(records)
        topic, number = self.partition
        records.append(LogRecord(topic, number, offset, timestamp_ms, key, value, headers))
        if transaction is not None:
            offsets = transaction.offsets.get(self)
            if offsets is None:
                transaction.offsets[self] = [offset]
                self._open[transaction] = offset
            else:
                offsets.append(offset)
        return offset

    def finish(self, transaction: Transaction, *, commit: bool) -> None:
        """Append the marker of *transaction*."""
        if not commit:
            for offset in transaction.offsets[self]:
                index = offset - self._base
                if index >= 0 and (record := self._records[index]) is not None:
                    self._aborted[offset] = record
                    self._records[index] = None
        self._records.append(None)
        del self._open[transaction]
        self.tell()

    def read(self, offset: int, limit: int, isolation: Isolation) -> tuple[list[LogRecord], int]:
        """Return up to *limit* records from *offset* on, and the position after them."""
        found: list[LogRecord] = []
        base = self._base
        if isolation == "read_committed":
            stop = self.stable
            # In slices, because copying a whole backlog for each small bite would cost its square.
            for start in range(max(offset - base, 0), stop - base, _SLICE):
                for entry in self._records[start : min(start + _SLICE, stop - base)]:
                    if entry is not None:
                        found.append(entry)
                        if len(found) == limit:
                            return found, entry.offset + 1
            return found, max(stop, offset)
        for at in range(offset, self.end):
            record = self._records[at - base] or self._aborted.get(at)
            if record is not None:
                found.append(record)
                if len(found) == limit:
                    return found, at + 1
        return found, max(self.end, offset)

    def offset_at(self, timestamp_ms: int) -> int:
        """Return the offset of the first record stamped at or after *timestamp_ms*; the stable end if none is."""
        for entry in self._records[self.begin - self._base : self.stable - self._base]:
            if entry is not None and entry.timestamp_ms >= timestamp_ms:
                return entry.offset
        return self.stable

    def stamp_at(self, offset: int) -> int | None:
        """Return the timestamp of the first record at or after *offset*, open transactions included."""
        for entry in self._records[max(offset, self.begin) - self._base :]:
            if entry is not None:
                return entry.timestamp_ms
        return None

    def delete_before(self, offset: int) -> None:
        """Delete the records below *offset*, at most up to the stable end."""
        offset = min(offset, self.stable)
        if offset > self.begin:
            self.begin = offset
            del self._records[: offset - self._base]
            self._base = offset

    def compact(self, up_to: int, *, drop_tombstones: bool) -> int:
        """Keep the latest record of each key among those below *up_to*; return how many went.

        As in Kafka, records keep their offsets, and nothing at or above the last stable offset is touched.
        """
        up_to = min(up_to, self.stable)
        latest: dict[bytes | None, int] = {}
        kept = self._records[: max(up_to - self._base, 0)]
        for entry in kept:
            if entry is not None:
                latest[entry.key] = entry.offset
        gone = 0
        for index, entry in enumerate(kept):
            if entry is None:
                self._aborted.pop(self._base + index, None)
            elif latest[entry.key] != entry.offset or (drop_tombstones and entry.value is None):
                self._records[index] = None
                gone += 1
        return gone

    def tell(self) -> None:
        """Tell the followers that there may be something new."""
        for follower in tuple(self.followers):
            follower.arrived(self.partition)
