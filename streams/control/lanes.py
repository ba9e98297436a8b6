"""Backpressure of the lanes of invocations: what to sample, and which signals to publish when.

Pure but for `sample`, which asks the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streams.backpressure import BackpressurePolicy, LagMeter, LevelState, next_level
from streams.backpressure.signal import signal_of
from streams.broker.port import Broker, Partition
from streams.records.control import BackpressureSignal
from streams.records.topics import Catalogue

KIND = "invocations"
# Signals of a lane where nothing changes are repeated well before the last one runs out.
_REPEATS_PER_TTL = 3


class Lane:
    """One lane: its meter, its level, and when its signal was last published."""

    def __init__(self, name: str, policy: BackpressurePolicy) -> None:
        self.name = name
        self._policy = policy
        self._meter = LagMeter(half_life_s=policy.half_life_s)
        self._level = LevelState()
        self._published_s = float("-inf")

    def resume(self, signal: BackpressureSignal, now_s: float) -> None:
        """Go on from what an earlier controller published; the dwell starts again."""
        if signal.level in {"slow", "closed"}:
            self._level = LevelState("closed" if signal.level == "closed" else "slow", now_s)

    def sample(
        self, now_s: float, now_ms: int, positions: Mapping[int, int], ends: Mapping[int, int]
    ) -> BackpressureSignal | None:
        """Take a sample; return the signal when it is time to publish one.

        Args:
            now_s: Seconds of a clock that does not go back.
            now_ms: Milliseconds since the epoch, for the signal.
        """
        self._meter.sample(now_s, positions, ends)
        before, self._level = self._level, next_level(self._level, self._meter.records, now_s, self._policy)
        quiet = self._level.level == before.level == "open"
        if quiet and now_s - self._published_s < self._policy.ttl_s / _REPEATS_PER_TTL:
            return None
        self._published_s = now_s
        return signal_of(self.name, self._level.level, self._meter, now_ms, self._policy)


def lanes_of(catalogue: Catalogue, policy: BackpressurePolicy) -> dict[str, Lane]:
    """Return a lane for each topic of invocations, by the topic's full name; named without the namespace."""
    names = [catalogue.name(KIND), *(catalogue.name(KIND, lane) for lane in catalogue.lanes.get(KIND, ()))]
    return {name: Lane(name.removeprefix(f"{catalogue.namespace}."), policy) for name in names}


async def sample(
    broker: Broker, group: str, topics: Iterable[str], partitions: int
) -> dict[str, tuple[dict[int, int], dict[int, int]]]:
    """Return positions and end offsets of each topic's partitions.

    Args:
        group: Memberless group to which the shards commit; what they have not committed is unread from its beginning.
    """
    wanted = [Partition(topic, number) for topic in topics for number in range(partitions)]
    # The ends last: an end that is younger than the position can only overestimate the lag.
    committed = await broker.admin.group_offsets(group, wanted)
    missing = [partition for partition in wanted if partition not in committed]
    begin = await broker.admin.begin_offsets(missing) if missing else {}
    ends = await broker.admin.end_offsets(wanted, isolation="read_uncommitted")
    samples: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
    for partition in wanted:
        positions, lane_ends = samples.setdefault(partition.topic, ({}, {}))
        positions[partition.number] = committed.get(partition, begin.get(partition, 0))
        lane_ends[partition.number] = ends[partition]
    return samples
