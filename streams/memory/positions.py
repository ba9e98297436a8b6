"""Where the sink begins to read a partition. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.broker.port import Partition


@dataclass(frozen=True, slots=True)
class Gap:
    """A committed position that is outside the log: what was between is not there to be read."""

    partition: Partition
    committed: int
    begin: int
    end: int

    def __str__(self) -> str:
        what = (
            "records before the log's beginning are gone" if self.committed < self.begin else "the topic was made anew"
        )
        return (
            f"committed position {self.committed} of {self.partition.topic}[{self.partition.number}] is outside the "
            f"log ({self.begin} to {self.end}): {what}; reading on from {self.begin}"
        )


def start_positions(
    committed: Mapping[Partition, int], begin: Mapping[Partition, int], end: Mapping[Partition, int]
) -> tuple[dict[Partition, int], list[Gap]]:
    """Return where to begin each partition of *begin*, and the gaps to be told.

    Without a committed position, and where it is outside the log, reading begins at the log's beginning: whatever is
    written twice meets the guard in Postgres.
    """
    positions, gaps = {}, []
    for partition, first in begin.items():
        at = committed.get(partition, first)
        if not first <= at <= end[partition]:
            gaps.append(Gap(partition, at, first, end[partition]))
            at = first
        positions[partition] = at
    return positions, gaps
