"""What a pass over the log lets go of: only what the store has of the newest write, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain, repeat
from random import Random

import pytest

from streams import App
from streams.broker.port import Message, Partition, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.records import encode
from streams.records.state import StateDelta
from streams.shards.cold import Swept
from streams.shards.engine import Engine
from streams.shards.sweep import Sweeper
from streams.testing.virtual_time import run

SOURCE = Partition("ns.state-deltas", 0)


class Store:
    """Has the first write of `a/1` and not the second: it has failed over."""

    async def versions(self, records: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
        return dict.fromkeys(records, (1, 1))


def swept(writes: int, flushed: Iterator[int | None]) -> list[Swept]:
    """Return what a pass does with writes of one record, the first of which is old enough to leave."""

    async def scenario() -> list[Swept]:
        log = SimulatedLog(Random(1))
        log.create_topics([TopicSpec(SOURCE.topic, 1, 1, {"cleanup.policy": "compact"})])
        for sequence in range(1, writes + 1):
            delta = StateDelta("a/1", "x", b"1", 1, sequence, "a/1", 0)
            log.write([Message(SOURCE.topic, b"a/1\0x", encode(delta), 0)])
        found: list[Swept] = []

        async def apply(one: Swept) -> None:
            found.append(one)

        engine = Engine(App("sweep"), partition=0, partition_of=lambda _: 0)
        sweeper = Sweeper(
            SimulatedBroker(log, "p"), SOURCE, engine, Store(),  # type: ignore[arg-type]
            apply=apply, flushed_offset=lambda: next(flushed), may_leave=lambda: 1, every_s=60.0,
        )  # fmt: skip
        await sweeper.sweep()
        return found

    return run(scenario(), seed=1)


@pytest.mark.parametrize("known", [(), (None,)])
def test_what_is_written_flushed_and_evicted_while_a_pass_reads_is_not_hidden_by_a_tombstone(known):
    # The sink had the first write when the pass began, and has had the second since.
    assert swept(2, chain([1], known, repeat(2))) == []


def test_what_the_store_has_of_the_newest_write_leaves_the_log():
    assert swept(1, repeat(1)) == [Swept(((b"a/1\0x", "a/1"),))]
