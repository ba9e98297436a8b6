"""The port to the log: what the product needs from Kafka, and nothing else.

Two adapters implement it (`streams.broker.kafka`, `streams.broker.simulated`); one contract test suite runs over both.
Everything above this module is written against these protocols, so that it runs on the simulated log in virtual time as
well as on real brokers.

Every call is bounded by a timeout of the adapter and raises `BrokerUnavailable` when that passes; the exceptions to
that are named where they occur.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, Self

Headers = tuple[tuple[str, bytes], ...]


class Partition(NamedTuple):
    """One partition of a topic. A tuple, because it is a dictionary key on the hot path."""

    topic: str
    number: int


class LogRecord(NamedTuple):
    """A record as it was read. A tuple, since one is made of every record: a frozen dataclass takes four times as long.

    Attributes:
        timestamp_ms: Milliseconds since the epoch, as the producer or the broker (LogAppendTime) stamped it.
        value: None for a tombstone.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A record to be written.

    Attributes:
        partition: None leaves the choice to `murmur2(key) mod n` (see `streams.broker.partitioning`).
        value: None writes a tombstone.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers = ()


class Committed(NamedTuple):
    """What a group has committed for a partition: the position, and what the committer noted beside it."""

    offset: int
    note: str = ""


SkimmedRecord = tuple[int, int, bytes | None, bytes | None]
"""Offset, timestamp in ms since the epoch and key of a record, and what was asked for: its value, or one header."""


class Skimmed(NamedTuple):
    """What was skimmed of a partition: the position after it, and the records, in the order of their offsets."""

    position: int
    records: Sequence[SkimmedRecord]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be, or (from `Admin.describe`) as it is.

    Attributes:
        config: Only the settings that matter to the product, as Kafka spells them (`cleanup.policy`, `retention.ms`).
    """

    name: str
    partitions: int
    replication: int = 1
    config: Mapping[str, str] = field(default_factory=dict)


class Reader(Protocol):
    """Reads hand-assigned partitions from explicit positions. It is a member of no group.

    A position outside the log (retention has passed it, or it is beyond the end) raises `PositionOutOfRange` from
    `poll`, naming the partition, the position and the log's bounds; nothing is ever skipped silently.
    """

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...

    async def assign(self, positions: Mapping[Partition, int]) -> None:
        """Replace the assignment; reading of each partition starts at the offset given."""
        ...

    async def poll(
        self, partitions: Collection[Partition] = (), *, max_records: int = 500, timeout_s: float = 1.0
    ) -> dict[Partition, list[LogRecord]]:
        """Return what has arrived, waiting up to *timeout_s* when nothing has; empty on timeout.

        With *partitions*, only records of those are returned (others stay buffered). Records of one partition are in
        offset order. With `read_committed`, records of open and aborted transactions are never returned.
        """
        ...

    def pause(self, partitions: Collection[Partition]) -> None:
        """Stop returning records of *partitions* until `resume`; positions are kept. Idempotent."""
        ...

    def resume(self, partitions: Collection[Partition]) -> None:
        """Undo `pause`. Idempotent; a poll in progress that waits may return their records."""
        ...

    async def position(self, partition: Partition) -> int:
        """Offset of the next record to be returned; moves past transaction markers, unlike `last record + 1`."""
        ...

    async def seek(self, partition: Partition, offset: int) -> None:
        """Continue *partition* at *offset*; records already buffered are dropped."""
        ...

    async def commit(self, positions: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None) -> None:
        """Commit *positions* to the memberless group that the reader was made with, for lag tools and restarts.

        Args:
            notes: Kept with the position and replaced with it, at most 4,096 bytes each (`offset.metadata.max.bytes`);
                a partition without one loses the note that it had.

        Raises:
            ValueError: The reader was made without a group.
        """
        ...


class Producer(Protocol):
    """Writes without transactions: idempotent, `acks=all`."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...

    async def send(self, *messages: Message) -> tuple[int, ...]:
        """Write *messages* and return their offsets once all are acknowledged. Safe to call concurrently.

        Raises:
            RecordTooLarge: A message exceeds the topic's limit; none of that message is written.
            BrokerUnavailable: Not acknowledged in time; the records may have been written.
        """
        ...


class Ring(Protocol):
    """Transactions of one owner over two (or more) producers used in turn.

    `start` fences every earlier owner with the same name. `transact` may be called again while the previous call is
    still committing: its records are sent early, as soon as those of the previous call are acknowledged, but it commits
    only after the previous commit has succeeded. So records have offsets in call order, and transactions become visible
    in call order, without gaps. At most `size` calls may be under way; one more waits.
    After any error the ring is unusable: all later calls raise the same error.
    """

    async def start(self) -> None:
        """Start the producers, which ends open transactions of earlier owners and fences them."""
        ...

    async def transact(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Write *messages* in one transaction; return their offsets once it is committed.

        The order of calls is the order in which the coroutine is first stepped. Sends are awaited before the commit.

        Raises:
            Fenced: Another owner has started. Nothing of this transaction is visible, unless the connection broke
                during the commit as well: treat it as CommitAmbiguous.
            BrokerUnavailable: Not acknowledged in time. Nothing of this transaction is visible.
            CommitAmbiguous: The outcome is unknown (timeout, connection lost during commit). The caller must end its
                process, or at least its use of the partition; the next owner learns the truth from the log.
            RecordTooLarge: A message exceeds the topic's limit. Nothing of this transaction is visible.
        """
        ...

    async def close(self, timeout_s: float = 5.0) -> None:
        """Wait for commits under way up to *timeout_s* and stop the producers. Never raises."""
        ...


class OwnershipListener(Protocol):
    """Told by `Membership` what the process owns. Calls do not overlap."""

    async def assigned(self, partitions: frozenset[int]) -> None:
        """The complete set that this process now owns. Long work belongs in a task of the listener's own."""
        ...

    async def revoked(self, partitions: frozenset[int]) -> None:
        """These must be let go of before this returns; the group waits, up to its rebalance timeout."""
        ...


class Membership(Protocol):
    """Membership of a group over an anchor topic alone, to learn which partition numbers this process owns."""

    async def start(self, listener: OwnershipListener) -> None: ...

    @property
    def owned(self) -> frozenset[int]: ...

    async def confirm(self) -> None:
        """Prove by a round trip that the membership's generation is still current.

        Raises:
            OwnershipLost: The group has moved on, and the partitions may have another owner; or this member owns none.
        """
        ...

    async def leave(self) -> None:
        """Leave the group so that others take over at once (with static membership: keep the seat). Idempotent.

        The listener is told first to let go of what is still owned.
        """
        ...


class Admin(Protocol):
    """Administration and questions about offsets."""

    async def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        """Create the topics that do not exist; return the names of those created.

        Raises:
            TopicError: The broker refused one, with its name and the broker's reason.
        """
        ...

    async def describe(self, names: Collection[str], *, with_config: bool = True) -> dict[str, TopicSpec]:
        """Return the topics among *names* that exist, with partitions, replication and (asked for) all config."""
        ...

    async def list_topics(self) -> frozenset[str]: ...

    async def delete_topics(self, names: Collection[str]) -> None: ...

    async def begin_offsets(self, partitions: Collection[Partition]) -> dict[Partition, int]: ...

    async def end_offsets(
        self, partitions: Collection[Partition], *, isolation: Isolation = "read_committed"
    ) -> dict[Partition, int]:
        """Offset after the last record; with `read_committed`, the last stable offset."""
        ...

    async def offsets_at(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int]:
        """Offset of the first record stamped at or after the given time; the end offset where there is none."""
        ...

    async def delete_records(self, before: Mapping[Partition, int]) -> None:
        """Delete the records below the given offsets. An offset below the log's beginning changes nothing."""
        ...

    async def stamps_at(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Timestamp, in ms since the epoch, of the first record at or after each position.

        Records of open transactions count, and markers as well. It may be that of an earlier record of the same batch,
        which is older by its producer's linger at most. Partitions without such a record are left out, and so are those
        whose leader does not say: who asks for ages asks again.
        """
        ...

    async def skim(self, positions: Mapping[Partition, int], header: str = "") -> dict[Partition, Skimmed]:
        """Return committed records from each position on, without their values and without waiting for any.

        Not all that there are: ask again from the positions returned, until they are at the ends. A partition is left
        out where it has no room in the answer, where its position is outside the log, or where its leader does not say.

        Args:
            header: Name of the one header that is returned with each record.
        """
        ...

    async def scan(self, positions: Mapping[Partition, int]) -> dict[Partition, Skimmed]:
        """Return committed records from each position on, with their values; otherwise like `skim`."""
        ...

    async def group_offsets(self, group: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Committed offsets of *group*; partitions without one are left out."""
        ...

    async def committed(self, group: str, partitions: Collection[Partition]) -> dict[Partition, Committed]:
        """Committed offsets of *group* with their notes; partitions without one are left out."""
        ...


Isolation = Literal["read_committed", "read_uncommitted"]


class Broker(Protocol):
    """A connection to one log: the factory of everything above. Close it last."""

    @property
    def address(self) -> str:
        """Where the log is, for error messages."""
        ...

    def reader(self, *, isolation: Isolation = "read_committed", group: str | None = None) -> Reader:
        """*group* is used for `Reader.commit` only; the reader never joins it."""
        ...

    def producer(self, *, linger_ms: int = 0) -> Producer: ...

    def ring(self, transactional_id: str, *, size: int = 2, timeout_ms: int = 10_000) -> Ring:
        """Producers have the IDs `<transactional_id>-0`, `-1`, …; the IDs are the fence, so derive them from the role
        and the partition alone.
        """
        ...

    def membership(self, group: str, anchor: str, *, instance_id: str | None = None) -> Membership:
        """*instance_id* makes membership static: a restarted process with the same one gets its partitions back."""
        ...

    @property
    def admin(self) -> Admin: ...

    async def connect(self) -> None:
        """Check that the log answers.

        Raises:
            BrokerUnavailable: With the address and the setting that names it, within 15 s.
        """
        ...

    async def close(self) -> None: ...
