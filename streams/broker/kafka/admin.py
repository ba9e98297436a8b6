"""Administration of topics, and questions about offsets. Errors that Kafka hides in responses are raised."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.broker.kafka.client import Connection, quietly
from streams.broker.kafka.skim import skim
from streams.broker.kafka.stamps import stamps_at
from streams.broker.port import Committed, Isolation, Partition, Skimmed, TopicSpec
from streams.errors import TopicError

_ALREADY_EXISTS = kafka_errors.TopicAlreadyExistsError.errno
_UNKNOWN_TOPIC = kafka_errors.UnknownTopicOrPartitionError.errno
# Untyped in aiokafka.
_new_topic: Any = NewTopic
_config_resource: Any = ConfigResource
_records_to_delete: Any = RecordsToDelete
# How long the brokers may take until all of them know a topic that was created or deleted.
_SPREAD_S = 5.0


class KafkaAdmin:
    """See `streams.broker.port.Admin`. Connects when first used."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._admin: Any = None
        self._askers: dict[Isolation, Any] = {}
        self._starting = asyncio.Lock()

    async def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        """Create the topics that do not exist."""
        if not specs:
            return frozenset()
        new = [_new_topic(s.name, s.partitions, s.replication, topic_configs=dict(s.config)) for s in specs]
        admin = await self._client()
        async with self._connection.bounded("creating topics"):
            response = await admin.create_topics(new)
        created, refused = set(), []
        for name, code, *reason in response.topic_errors:
            if code == 0:
                created.add(name)
            elif code != _ALREADY_EXISTS:
                refused.append(f"topic {name!r} was refused: {_reason(code, reason)}")
        await self._until(created, exist=True)
        if refused:
            raise TopicError("; ".join(refused))
        return frozenset(created)

    async def describe(self, names: Collection[str], *, with_config: bool = True) -> dict[str, TopicSpec]:
        """Return the topics among *names* that exist."""
        if not names:
            return {}
        admin = await self._client()
        async with self._connection.bounded("describing topics"):
            topics = [t for t in await admin.describe_topics(list(names)) if t["error_code"] == 0]
            configs: dict[str, dict[str, str]] = {}
            if with_config and topics:
                wanted = [_config_resource(ConfigResourceType.TOPIC, t["topic"]) for t in topics]
                for response in await admin.describe_configs(wanted):
                    for _code, _message, _type, name, entries in response.resources:
                        configs[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
        return {
            t["topic"]: TopicSpec(
                t["topic"], len(t["partitions"]), len(t["partitions"][0]["replicas"]), configs.get(t["topic"], {})
            )
            for t in topics
        }

    async def list_topics(self) -> frozenset[str]:
        """Names of all topics, those that Kafka keeps for itself included."""
        admin = await self._client()
        async with self._connection.bounded("listing topics"):
            return frozenset(await admin.list_topics())

    async def delete_topics(self, names: Collection[str]) -> None:
        """Delete topics; those that do not exist are no error."""
        if not names:
            return
        admin = await self._client()
        async with self._connection.bounded("deleting topics"):
            response = await admin.delete_topics(list(names))
        for name, code, *reason in response.topic_error_codes:
            if code not in (0, _UNKNOWN_TOPIC):
                raise TopicError(f"topic {name!r} was not deleted: {_reason(code, reason)}")
        await self._until(names, exist=False)

    async def begin_offsets(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Offset of the first record that the log still has."""
        asker = await self._asker("read_uncommitted", {p.topic for p in partitions})
        async with self._connection.bounded("asking for offsets"):
            found = await asker.beginning_offsets([TopicPartition(*p) for p in partitions])
        return {Partition(*source): offset for source, offset in found.items()}

    async def end_offsets(
        self, partitions: Collection[Partition], *, isolation: Isolation = "read_committed"
    ) -> dict[Partition, int]:
        """Offset after the last record, or the last stable offset."""
        asker = await self._asker(isolation, {p.topic for p in partitions})
        async with self._connection.bounded("asking for offsets"):
            found = await asker.end_offsets([TopicPartition(*p) for p in partitions])
        return {Partition(*source): offset for source, offset in found.items()}

    async def offsets_at(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int]:
        """Offset of the first record stamped at or after the given time."""
        asker = await self._asker("read_committed", {p.topic for p in times_ms})
        async with self._connection.bounded("asking for offsets"):
            found = await asker.offsets_for_times({TopicPartition(*p): t for p, t in times_ms.items()})
        answer = {Partition(*source): at.offset for source, at in found.items() if at is not None}
        if missing := [p for p in times_ms if p not in answer]:
            answer |= await self.end_offsets(missing)
        return answer

    async def stamps_at(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Timestamp of the first record at or after each position."""
        if not positions:
            return {}
        asker = await self._asker("read_uncommitted", {p.topic for p in positions})
        async with self._connection.bounded("asking for timestamps"):
            return await stamps_at(asker._client, positions)

    async def skim(self, positions: Mapping[Partition, int], header: str = "") -> dict[Partition, Skimmed]:
        """Return committed records from each position on, without their values."""
        return await self._walked("skimming records", positions, header)

    async def scan(self, positions: Mapping[Partition, int]) -> dict[Partition, Skimmed]:
        """Return committed records from each position on, with their values."""
        return await self._walked("scanning records", positions, None)

    async def _walked(
        self, doing: str, positions: Mapping[Partition, int], header: str | None
    ) -> dict[Partition, Skimmed]:
        if not positions:
            return {}
        asker = await self._asker("read_committed", {p.topic for p in positions})
        async with self._connection.bounded(doing):
            return await skim(asker._client, positions, header)

    async def delete_records(self, before: Mapping[Partition, int]) -> None:
        """Delete the records below the given offsets."""
        if not before:
            return
        begin = await self.begin_offsets(list(before))
        wanted = {TopicPartition(*p): _records_to_delete(offset) for p, offset in before.items() if offset > begin[p]}
        if wanted:
            admin = await self._client()
            async with self._connection.bounded("deleting records"):
                await admin.delete_records(wanted)

    async def group_offsets(self, group: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Committed offsets of *group*."""
        return {partition: at.offset for partition, at in (await self.committed(group, partitions)).items()}

    async def committed(self, group: str, partitions: Collection[Partition]) -> dict[Partition, Committed]:
        """Committed offsets of *group* with their notes."""
        if not partitions:
            return {}
        admin = await self._client()
        async with self._connection.bounded("asking for a group's offsets"):
            found = await admin.list_consumer_group_offsets(group, partitions=[TopicPartition(*p) for p in partitions])
        return {
            Partition(*source): Committed(at.offset, at.metadata or "")
            for source, at in found.items()
            if at.offset >= 0
        }

    async def close(self) -> None:
        """Close all connections."""
        clients = [asker.stop() for asker in self._askers.values()]
        if self._admin is not None:
            clients.append(self._admin.close())
        self._askers.clear()
        self._admin = None
        for ending in clients:
            await quietly(ending, 2.0)

    async def _client(self) -> Any:
        async with self._starting:
            if self._admin is None:
                self._admin = await self._connection.start(self._connection.admin, stop="close")
            return self._admin

    async def _asker(self, isolation: Isolation, topics: set[str]) -> Any:
        """Return a consumer that reads nothing: with read_committed, end offsets are last stable offsets."""
        async with self._starting:
            asker = self._askers.get(isolation)
            if asker is None:
                asker = await self._connection.start(
                    lambda: self._connection.consumer("offsets", isolation_level=isolation)
                )
                self._askers[isolation] = asker
        async with self._connection.bounded("asking for offsets"):
            await self._connection.wait_for_topics(asker._client, topics)
        return asker

    async def _until(self, names: Collection[str], *, exist: bool) -> None:
        admin = await self._client()
        async with self._connection.bounded("waiting until the brokers know of a change of topics", _SPREAD_S):
            while names:
                topics = await admin.describe_topics(list(names))
                there = {
                    t["topic"]
                    for t in topics
                    if t["error_code"] == 0 and all(p["leader"] >= 0 for p in t["partitions"])
                }
                if there == set(names) if exist else not there:
                    return
                await asyncio.sleep(0.02)


def _reason(code: int, reason: Sequence[Any]) -> str:
    return str(reason[0]) if reason and reason[0] else str(kafka_errors.for_code(code).__name__)
