"""The topics in which work waits: which group's positions say how much, and what they mean for a lane."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from streams.broker.port import Partition
from streams.records.topics import Catalogue

INVOCATIONS = "invocations"
_CONSUMERS = {
    INVOCATIONS: "shards",
    "tool-calls": "tools",
    "tool-overflow": "tools",
    "llm-requests": "llm",
    "state-deltas": "memory-sink",
    "results": "memory-sink",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One topic and who consumes it.

    Attributes:
        name: Kind and lane, without the namespace: `invocations`, `llm-requests.fast`.
        group: Memberless group to which its consumer commits its positions.
    """

    kind: str
    name: str
    topic: str
    group: str
    partitions: tuple[Partition, ...]


def stages_of(catalogue: Catalogue) -> tuple[Stage, ...]:
    """Return the stages of a namespace, its lanes included; those of invocations first."""
    return tuple(_stages(catalogue))


def _stages(catalogue: Catalogue) -> Iterator[Stage]:
    for kind, consumer in _CONSUMERS.items():
        for lane in ("", *catalogue.lanes.get(kind, ())):
            topic = catalogue.name(kind, lane)
            partitions = tuple(Partition(topic, number) for number in range(catalogue.partitions))
            name = topic.removeprefix(f"{catalogue.namespace}.")
            yield Stage(kind, name, topic, f"{catalogue.namespace}-{consumer}", partitions)
