"""One simulated process's way to the simulated log: readers, producers, rings, memberships, administration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Self

from streams.broker.port import Committed, Isolation, LogRecord, Message, Partition, Skimmed, TopicSpec
from streams.broker.ring import OrderedRing
from streams.broker.simulated.link import ADDRESS, Link
from streams.broker.simulated.log import SimulatedLog
from streams.broker.simulated.membership import SimulatedMembership
from streams.broker.simulated.process import Process
from streams.broker.simulated.reader import SimulatedReader
from streams.errors import BrokerError, CommitAmbiguous

_SKIM_RECORDS = 5_000


class SimulatedProducer:
    """See `streams.broker.port.Producer`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, *messages: Message) -> tuple[int, ...]:
        """Write *messages*; see the port."""
        log = self._link.log
        return await self._link.request("writing", lambda: log.write(messages))


class SimulatedTransactions:
    """See `streams.broker.ring.TransactionalProducer`."""

    def __init__(self, link: Link, transactional_id: str, timeout_s: float) -> None:
        self._link = link
        self._id = transactional_id
        self._timeout_s = timeout_s
        self._epoch = -1

    async def start(self) -> None:
        """Start, which fences earlier owners of the ID."""
        log = self._link.log
        self._epoch = await self._link.request(
            "starting a producer", lambda: log.start_producer(self._id, self._timeout_s)
        )

    async def write(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Begin a transaction and write *messages*."""
        log, epoch = self._link.log, self._epoch
        return await self._link.request("writing", lambda: log.write_transaction(self._id, epoch, messages))

    async def commit(self) -> None:
        """Commit what was written."""
        log, epoch = self._link.log, self._epoch
        await self._link.request(
            "committing", lambda: log.end_transaction(self._id, epoch, commit=True), CommitAmbiguous
        )

    async def stop(self, timeout_s: float) -> None:
        """Abort an open transaction, so that it hides nobody's records."""
        log, epoch = self._link.log, self._epoch
        if epoch < 0:
            return
        try:
            await self._link.request("stopping", lambda: log.end_transaction(self._id, epoch, commit=False))
        except BrokerError:
            pass  # Fenced or not reachable: the next owner or the timeout ends it.


class SimulatedAdmin:
    """See `streams.broker.port.Admin`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._log = link.log

    async def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        """Create the topics that do not exist."""
        return await self._link.request("creating topics", lambda: self._log.create_topics(specs))

    async def describe(self, names: Collection[str], *, with_config: bool = True) -> dict[str, TopicSpec]:
        """Return the topics among *names* that exist."""
        return await self._link.request("describing topics", lambda: self._log.describe(names))

    async def list_topics(self) -> frozenset[str]:
        """Names of all topics."""
        return await self._link.request("listing topics", self._log.topics)

    async def delete_topics(self, names: Collection[str]) -> None:
        """Delete topics."""
        await self._link.request("deleting topics", lambda: self._log.delete_topics(names))

    async def begin_offsets(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Offset of the first record that the log still has."""
        return await self._link.request(
            "asking for offsets", lambda: {p: self._log.partition(p).begin for p in partitions}
        )

    async def end_offsets(
        self, partitions: Collection[Partition], *, isolation: Isolation = "read_committed"
    ) -> dict[Partition, int]:
        """Offset after the last record, or the last stable offset."""
        return await self._link.request(
            "asking for offsets", lambda: {p: self._log.partition(p).end_for(isolation) for p in partitions}
        )

    async def offsets_at(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int]:
        """Offset of the first record stamped at or after the given time."""
        return await self._link.request(
            "asking for offsets", lambda: {p: self._log.partition(p).offset_at(t) for p, t in times_ms.items()}
        )

    async def delete_records(self, before: Mapping[Partition, int]) -> None:
        """Delete the records below the given offsets."""

        def delete() -> None:
            for partition, offset in before.items():
                self._log.partition(partition).delete_before(offset)

        await self._link.request("deleting records", delete)

    async def stamps_at(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Timestamp of the first record at or after each position."""

        def look() -> dict[Partition, int]:
            found = {p: self._log.partition(p).stamp_at(offset) for p, offset in positions.items()}
            return {p: stamp for p, stamp in found.items() if stamp is not None}

        return await self._link.request("asking for timestamps", look)

    async def skim(self, positions: Mapping[Partition, int], header: str = "") -> dict[Partition, Skimmed]:
        """Return committed records from each position on, without their values."""
        return await self._look("skimming records", positions, lambda record: dict(record.headers).get(header))

    async def scan(self, positions: Mapping[Partition, int]) -> dict[Partition, Skimmed]:
        """Return committed records from each position on, with their values."""
        return await self._look("scanning records", positions, lambda record: record.value)

    async def _look(
        self, doing: str, positions: Mapping[Partition, int], wanted: Callable[[LogRecord], bytes | None]
    ) -> dict[Partition, Skimmed]:
        def look() -> dict[Partition, Skimmed]:
            found = {}
            for partition, position in positions.items():
                source = self._log.partition(partition)
                if source.begin <= position <= source.end:
                    records, after = source.read(position, _SKIM_RECORDS, "read_committed")
                    found[partition] = Skimmed(after, [(r.offset, r.timestamp_ms, r.key, wanted(r)) for r in records])
            return found

        return await self._link.request(doing, look)

    async def group_offsets(self, group: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Committed offsets of *group*."""
        return {partition: at.offset for partition, at in (await self.committed(group, partitions)).items()}

    async def committed(self, group: str, partitions: Collection[Partition]) -> dict[Partition, Committed]:
        """Committed offsets of *group* with their notes."""
        return await self._link.request("asking for a group's offsets", lambda: self._log.committed(group, partitions))


class SimulatedBroker:
    """See `streams.broker.port.Broker`.

    Args:
        process: The process that uses it, or the name of one that is made for it.
    """

    def __init__(self, log: SimulatedLog, process: Process | str = "process") -> None:
        self.log = log
        self.process = Process(process) if isinstance(process, str) else process
        self._admin = SimulatedAdmin(self._link())

    @property
    def address(self) -> str:
        """A word instead of an address."""
        return ADDRESS

    @property
    def admin(self) -> SimulatedAdmin:
        """Administration."""
        return self._admin

    def reader(self, *, isolation: Isolation = "read_committed", group: str | None = None) -> SimulatedReader:
        """Return a reader."""
        return SimulatedReader(self._link(), isolation, group)

    def producer(self, *, linger_ms: int = 0) -> SimulatedProducer:
        """Return a producer."""
        return SimulatedProducer(self._link())

    def ring(self, transactional_id: str, *, size: int = 2, timeout_ms: int = 10_000) -> OrderedRing:
        """Return a ring of *size* transactional producers."""
        names = [f"{transactional_id}-{number}" for number in range(size)]
        return OrderedRing(
            transactional_id, [SimulatedTransactions(self._link(), name, timeout_ms / 1000) for name in names]
        )

    def membership(self, group: str, anchor: str, *, instance_id: str | None = None) -> SimulatedMembership:
        """Return a membership, not yet joined."""
        return SimulatedMembership(self._link(), group, anchor, instance_id)

    async def connect(self) -> None:
        """Check that the log answers."""
        await self._admin.list_topics()

    async def close(self) -> None:
        """Nothing to close."""

    def _link(self) -> Link:
        return Link(self.log, self.process)
