"""The simulated cluster: topics, producers with their epochs and transactions, groups, outages.

Its methods are synchronous and happen at one instant; how long a call takes to get there, and whether it does, is the
business of `link.py`. Tests and oracles may call them directly.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from random import Random

from streams.broker.partitioning import partition_for
from streams.broker.port import Committed, Isolation, LogRecord, Message, Partition, TopicSpec
from streams.broker.simulated.groups import Group
from streams.broker.simulated.partition import PartitionLog, Transaction
from streams.broker.simulated.timing import LOG_CONTEXT, Timing
from streams.errors import Fenced, RecordTooLarge, TopicError

_LEGAL_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
# What Kafka allows a batch by default, and what a record adds to its key, value and headers in it.
_MAX_MESSAGE_BYTES = 1_048_588
_OVERHEAD_BYTES = 75


class _ProducerState:
    """What the transaction coordinator knows of one transactional ID."""

    __slots__ = ("epoch", "timeout_s", "timer", "transaction")

    def __init__(self) -> None:
        self.epoch = -1
        self.timeout_s = 10.0
        self.transaction: Transaction | None = None
        self.timer: asyncio.TimerHandle | None = None


class SimulatedLog:
    """A cluster of one simulated broker.

    Args:
        random: The only source of randomness; seed it.
        epoch_s: Seconds since 1970 when the event loop's clock stands at 0.
        timing: How long things take.
    """

    def __init__(self, random: Random, *, epoch_s: float = 1_767_225_600.0, timing: Timing | None = None) -> None:
        self.random = random
        self.timing = timing or Timing()
        self.down_since_s = -1.0
        self.down_until_s = -1.0
        self._epoch_s = epoch_s
        self._topics: dict[str, tuple[TopicSpec, list[PartitionLog]]] = {}
        self._producers: dict[str, _ProducerState] = {}
        self._groups: dict[str, Group] = {}
        self._committed: dict[str, dict[Partition, Committed]] = {}

    def now_ms(self) -> int:
        """The cluster's clock."""
        return int((self._epoch_s + asyncio.get_running_loop().time()) * 1000)

    def latency_s(self) -> float:
        """Draw the time of one call."""
        shortest, longest = self.timing.latency_s
        if self.timing.slow_every and self.random.random() * self.timing.slow_every < 1:
            longest = self.timing.slow_s
        return shortest + (longest - shortest) * self.random.random()

    def outage(self, seconds: float) -> None:
        """Let the cluster answer nobody for *seconds* from now on."""
        now = asyncio.get_running_loop().time()
        if self.down_until_s < now:
            self.down_since_s = now
        self.down_until_s = max(self.down_until_s, now + seconds)

    # Topics

    def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        """Create the topics that do not exist; return the names of those created."""
        created, refused = set(), []
        for spec in specs:
            if spec.name in self._topics:
                continue
            reason = (
                f"illegal name {spec.name!r}; letters, digits, '.', '_' and '-' are allowed, at most 249"
                if not _LEGAL_NAME.fullmatch(spec.name)
                else f"number of partitions must be positive, got {spec.partitions}"
                if spec.partitions < 1
                else f"replication factor {spec.replication} exceeds the number of brokers, 1"
                if spec.replication > 1
                else ""
            )
            if reason:
                refused.append(f"topic {spec.name!r} was refused: {reason}")
                continue
            logs = [PartitionLog(Partition(spec.name, number)) for number in range(spec.partitions)]
            self._topics[spec.name] = (spec, logs)
            created.add(spec.name)
        if refused:
            raise TopicError("; ".join(refused))
        return frozenset(created)

    def describe(self, names: Iterable[str]) -> dict[str, TopicSpec]:
        """Return the topics among *names* that exist."""
        return {name: self._topics[name][0] for name in names if name in self._topics}

    def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics; those that do not exist are no error."""
        for name in names:
            _, logs = self._topics.pop(name, (None, []))
            for log in logs:
                log.deleted = True

    def topics(self) -> frozenset[str]:
        """Names of all topics."""
        return frozenset(self._topics)

    def partitions(self, topic: str) -> list[PartitionLog]:
        """Return the partitions of *topic*.

        Raises:
            TopicError: It does not exist.
        """
        try:
            return self._topics[topic][1]
        except KeyError:
            raise TopicError(f"topic {topic!r} does not exist in the simulated log; create it first") from None

    def has(self, partition: Partition) -> bool:
        """Return whether *partition* exists."""
        return partition.topic in self._topics and 0 <= partition.number < len(self._topics[partition.topic][1])

    def partition(self, partition: Partition) -> PartitionLog:
        """Return one partition.

        Raises:
            TopicError: It does not exist.
        """
        logs = self.partitions(partition.topic)
        if not 0 <= partition.number < len(logs):
            raise TopicError(
                f"partition {partition.number} of topic {partition.topic!r} does not exist; it has {len(logs)}"
            )
        return logs[partition.number]

    def records(self, topic: str, isolation: Isolation = "read_committed") -> list[LogRecord]:
        """Return everything that can be read in *topic*, partition by partition; for oracles."""
        return [r for log in self.partitions(topic) for r in log.read(log.begin, 2**62, isolation)[0]]

    def compact(self, topic: str, *, drop_tombstones: bool = False, dirty: int | None = None) -> int:
        """Compact every partition of *topic*; return how many records went.

        Args:
            dirty: Records at each end that are left alone, as Kafka leaves the active segment; drawn if not given.
        """
        gone = 0
        for log in self.partitions(topic):
            spare = self.random.randint(0, log.end - log.begin) if dirty is None else dirty
            gone += log.compact(log.end - spare, drop_tombstones=drop_tombstones)
        return gone

    # Writing

    def route(self, messages: Sequence[Message]) -> list[PartitionLog]:
        """Return where each message goes.

        Raises:
            TopicError: A topic or partition does not exist.
            RecordTooLarge: A message exceeds its topic's `max.message.bytes`.
            ValueError: A message has neither partition nor key, or neither key nor value.
        """
        places = []
        for message in messages:
            try:
                spec, logs = self._topics[message.topic]
            except KeyError:
                logs = self.partitions(message.topic)
                raise AssertionError from None  # the line above has raised
            key, number = message.key, message.partition
            size = _OVERHEAD_BYTES + len(key or b"") + len(message.value or b"")
            if message.headers:
                size += sum(len(name) + len(value) + 4 for name, value in message.headers)
            limit = int(spec.config.get("max.message.bytes", _MAX_MESSAGE_BYTES))
            if size > limit:
                raise RecordTooLarge(
                    f"record of {size} bytes for topic {message.topic!r} exceeds {limit} bytes (max.message.bytes); "
                    "store the payload elsewhere and pass a reference"
                )
            if number is None:
                if key is None:
                    raise ValueError(f"message for {message.topic!r} has neither key nor partition")
                number = partition_for(key, len(logs))
            elif key is None and message.value is None:
                raise ValueError(f"message for {message.topic!r} has neither key nor value")
            places.append(logs[number] if 0 <= number < len(logs) else self.partition(Partition(message.topic, number)))
        return places

    def write(self, messages: Sequence[Message], transaction: Transaction | None = None) -> tuple[int, ...]:
        """Append *messages* and return their offsets."""
        places = self.route(messages)
        now_ms = self.now_ms()
        offsets = tuple(
            place.append(now_ms, message.key, message.value, message.headers, transaction)
            for place, message in zip(places, messages, strict=True)
        )
        for place in dict.fromkeys(places):
            place.tell()
        return offsets

    # Transactions

    def start_producer(self, transactional_id: str, timeout_s: float) -> int:
        """Abort what is open under the ID, fence its earlier owners, and return the new epoch."""
        state = self._producers.setdefault(transactional_id, _ProducerState())
        self._finish(state, commit=False)
        state.epoch += 1
        state.timeout_s = timeout_s
        return state.epoch

    def write_transaction(self, transactional_id: str, epoch: int, messages: Sequence[Message]) -> tuple[int, ...]:
        """Append *messages* to the open transaction of the producer, beginning one if there is none."""
        state = self._state(transactional_id, epoch)
        if state.transaction is None:
            loop = asyncio.get_running_loop()
            state.transaction = Transaction(loop.time())
            if state.timer is None:
                state.timer = loop.call_later(state.timeout_s, self._expire, state, context=LOG_CONTEXT)
        return self.write(messages, state.transaction)

    def end_transaction(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        """Write the markers of the open transaction."""
        self._finish(self._state(transactional_id, epoch), commit=commit)

    def _state(self, transactional_id: str, epoch: int) -> _ProducerState:
        state = self._producers[transactional_id]
        if state.epoch != epoch:
            raise Fenced(
                f"producer {transactional_id!r} is fenced: another owner has started, or a transaction exceeded its "
                f"{state.timeout_s:g} s; this process must let go of the partition"
            )
        return state

    def _finish(self, state: _ProducerState, *, commit: bool) -> None:
        transaction, state.transaction = state.transaction, None
        if transaction is not None:
            for log in transaction.offsets:
                log.finish(transaction, commit=commit)

    def _expire(self, state: _ProducerState) -> None:
        """Abort a transaction that has been open for too long, and fence its producer."""
        state.timer = None
        if state.transaction is None:
            return
        loop = asyncio.get_running_loop()
        due = state.transaction.started_s + state.timeout_s
        if due <= loop.time():
            self._finish(state, commit=False)
            state.epoch += 1
        else:
            # One timer per producer, moved on when it rings: most transactions end long before.
            state.timer = loop.call_at(due, self._expire, state, context=LOG_CONTEXT)

    # Groups

    def group(self, name: str, anchor: str) -> Group:
        """Return the group *name* over the topic *anchor*, made when first asked for."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name, len(self.partitions(anchor)), self.timing, self.random)
        return group

    def commit_offsets(self, group: str, committed: dict[Partition, Committed]) -> None:
        """Store what *group* has *committed*."""
        for partition in committed:
            self.partition(partition)
        self._committed.setdefault(group, {}).update(committed)

    def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, Committed]:
        """Return what *group* has committed."""
        stored = self._committed.get(group, {})
        return {p: stored[p] for p in partitions if p in stored}
