"""Applying a catalogue to a broker, and telling where the two disagree.

What a namespace needs is `streams.records.topics`' word; what is there is asked of the port's `Admin`. Partitions are
never changed here: keys would move to other shards, and with them agents away from their state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streams.broker.port import Admin, TopicSpec
from streams.errors import TopicError
from streams.records.topics import Catalogue, TopicPlan

MIN_IN_SYNC = "min.insync.replicas"
CLUSTER_REPLICATION = 3
"""From so many replicas on a namespace is on a cluster, where a write is durable once two of them have it."""

_FOR_GOOD = "the number of partitions decides which shard an agent belongs to, and cannot change"


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a topic is not as the catalogue wants it.

    Attributes:
        aspect: `missing`, `partitions`, `replication`, or the setting's name as Kafka spells it.
        wanted: By the catalogue; empty with `missing`.
        found: On the broker; `unset` where it has no value.
    """

    topic: str
    aspect: str
    wanted: str = ""
    found: str = ""

    def __str__(self) -> str:
        if self.aspect == "missing":
            return f"{self.topic} is missing"
        return f"{self.topic}: {self.aspect} is {self.found}, should be {self.wanted}"

    @property
    def way_out(self) -> str:
        """What an operator can do about it."""
        match self.aspect:
            case "missing":
                return "streams topics create"
            case "partitions":
                return f"set STREAMS_PARTITIONS to fit, or use another namespace: {_FOR_GOOD}"
            case "replication":
                return "kafka-reassign-partitions.sh, or STREAMS_REPLICATION=1 on a single node"
            case setting:
                return (
                    f"kafka-configs.sh --alter --entity-type topics --entity-name {self.topic} "
                    f"--add-config {setting}={self.wanted}"
                )


def specs(catalogue: Catalogue, replication: int) -> list[TopicSpec]:
    """Return the topics of a namespace as the broker should have them."""
    return [
        TopicSpec(plan.name, plan.partitions, replication, dict(_config(plan, replication)))
        for plan in catalogue.topics()
    ]


def partitions_notice(catalogue: Catalogue) -> str:
    """Return what whoever creates a namespace must know, in one sentence."""
    return (
        f"Namespace {catalogue.namespace!r} has {catalogue.partitions} shards for good: {_FOR_GOOD} "
        "(partitions, STREAMS_PARTITIONS)."
    )


async def create_namespace(admin: Admin, catalogue: Catalogue, replication: int) -> tuple[str, ...]:
    """Create the topics of a namespace that do not exist; return the names of those created, in catalogue order.

    Topics that exist stay as they are; `differences` says what to change about them. Tell the user
    `partitions_notice`, because nobody can change partitions afterwards.

    Args:
        replication: Replicas of each topic; from 3 on, a write needs two of them (`min.insync.replicas`).

    Raises:
        TopicError: The broker refused a topic, or one that exists has another number of partitions.
    """
    # Before anything is created: a wrong number must not leave a namespace of two kinds.
    _refuse_other_partitions(catalogue, await _found(admin, catalogue))
    created = await admin.create_topics(specs(catalogue, replication))
    await ensure_partitions(admin, catalogue)
    return tuple(plan.name for plan in catalogue.topics() if plan.name in created)


async def differences(admin: Admin, catalogue: Catalogue, replication: int) -> list[Difference]:
    """Return every difference between a namespace on the broker and the catalogue, in catalogue order.

    Args:
        replication: Replicas that each topic should have; with 1 the namespace is on a single node, and replicas and
            `min.insync.replicas` are not looked at.
    """
    found = await admin.describe([plan.name for plan in catalogue.topics()])
    return [difference for spec in specs(catalogue, replication) for difference in _compare(spec, found.get(spec.name))]


async def ensure_partitions(admin: Admin, catalogue: Catalogue) -> None:
    """Check that every topic is there with the partitions that the catalogue wants; each role calls it at its start.

    Raises:
        TopicError: Names the topics that are missing or differ, and the way out.
    """
    found = await _found(admin, catalogue)
    if missing := [plan.name for plan in catalogue.topics() if plan.name not in found]:
        raise TopicError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; create what namespace "
            f"{catalogue.namespace!r} needs with `streams topics create MODULE:APP`"
        )
    _refuse_other_partitions(catalogue, found)


async def _found(admin: Admin, catalogue: Catalogue) -> dict[str, TopicSpec]:
    return await admin.describe([plan.name for plan in catalogue.topics()], with_config=False)


def _refuse_other_partitions(catalogue: Catalogue, found: Mapping[str, TopicSpec]) -> None:
    wrong: dict[tuple[int, int], list[str]] = {}
    for plan in catalogue.topics():
        if plan.name in found and found[plan.name].partitions != plan.partitions:
            wrong.setdefault((found[plan.name].partitions, plan.partitions), []).append(plan.name)
    if wrong:
        counts = "; ".join(
            f"{', '.join(names)}: {there} partitions and not {wanted}" for (there, wanted), names in wrong.items()
        )
        raise TopicError(
            f"{counts}. {_FOR_GOOD.capitalize()}: set STREAMS_PARTITIONS to what namespace {catalogue.namespace!r} was "
            "created with, or choose another namespace (STREAMS_NAMESPACE)"
        )


def _config(plan: TopicPlan, replication: int) -> Iterable[tuple[str, str]]:
    yield from plan.config.items()
    if replication >= CLUSTER_REPLICATION:
        yield MIN_IN_SYNC, "2"


def _compare(wanted: TopicSpec, found: TopicSpec | None) -> Iterable[Difference]:
    if found is None:
        yield Difference(wanted.name, "missing")
        return
    if found.partitions != wanted.partitions:
        yield Difference(wanted.name, "partitions", str(wanted.partitions), str(found.partitions))
    if wanted.replication > 1 and found.replication != wanted.replication:
        yield Difference(wanted.name, "replication", str(wanted.replication), str(found.replication))
    for setting, value in wanted.config.items():
        actual = found.config.get(setting, "unset")
        if not _same(value, actual):
            yield Difference(wanted.name, setting, value, actual)


def _same(wanted: str, found: str) -> bool:
    try:
        return float(wanted) == float(found)
    except ValueError:
        return wanted == found
