"""What a run has left behind: topics and the file of effects, read once at the end, interpreted nowhere but in the
verifier.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from streams.broker.port import Broker, LogRecord, Partition
from streams.broker.table import read_to_end
from streams.client.inbox import read_result
from streams.records import decode, decode_as
from streams.records.invocations import Invocation, Result
from streams.records.journal import Cursor, Marker
from streams.records.state import StateDelta
from streams.records.steps import ToolClaim
from streams.records.topics import Catalogue


@dataclass(slots=True)
class Evidence:
    """Everything that the verdict rests on.

    Attributes:
        submitted: IDs of invocations that were durably asked for, by clients or by agents.
        results: In the order of their shard; results of one agent instance are in the order in which it ran.
        deltas: In the order of their shard, with the shard's number.
        epochs: Epochs of the cursors of each shard, in the order of its journal.
        open_journals: Journal keys of what is neither a completion marker nor the cursor.
        claims: Step IDs that were claimed.
        effects: Idempotency keys of the payments, in their order.
        dead_letters: What was set aside.
    """

    submitted: set[str] = field(default_factory=set)
    results: list[Result] = field(default_factory=list)
    deltas: list[tuple[int, StateDelta]] = field(default_factory=list)
    epochs: dict[int, list[int]] = field(default_factory=dict)
    open_journals: list[str] = field(default_factory=list)
    claims: set[str] = field(default_factory=set)
    effects: list[str] = field(default_factory=list)
    dead_letters: list[str] = field(default_factory=list)


async def gather(broker: Broker, catalogue: Catalogue, effects: Path) -> Evidence:
    """Read it all."""
    found = Evidence(effects=[line.split("\t")[0] for line in _lines(effects)])
    async for record in _records(broker, catalogue, "invocations"):
        found.submitted.add(decode_as(Invocation, record.value or b"").id)
    async for record in _records(broker, catalogue, "inbox"):
        asked = decode(record.value or b"")
        if isinstance(asked, Invocation):
            found.submitted.add(asked.id)
    async for record in _records(broker, catalogue, "results"):
        found.results.append(read_result(record))
    async for record in _records(broker, catalogue, "state-deltas"):
        if record.value is not None:
            found.deltas.append((record.partition, decode_as(StateDelta, record.value)))
    await _read_journals(broker, catalogue, found)
    async for record in _records(broker, catalogue, "tool-claims"):
        if record.value is not None:
            found.claims.add(str(decode_as(ToolClaim, record.value).id))
    async for record in _records(broker, catalogue, "dead-letters"):
        found.dead_letters.append(f"{record.partition}@{record.offset} {record.key!r}")
    return found


async def _read_journals(broker: Broker, catalogue: Catalogue, found: Evidence) -> None:
    latest: dict[tuple[int, bytes], bytes | None] = {}
    async for record in _records(broker, catalogue, "journal"):
        assert record.key is not None
        latest[record.partition, record.key] = record.value
        if record.value is not None and isinstance(cursor := decode(record.value), Cursor):
            found.epochs.setdefault(record.partition, []).append(cursor.epoch)
    for (number, key), value in latest.items():
        if value is not None and not isinstance(decode(value), Marker | Cursor):
            found.open_journals.append(f"{number}: {key.decode(errors='replace')}")


async def _records(broker: Broker, catalogue: Catalogue, kind: str) -> AsyncIterator[LogRecord]:
    topic = catalogue.name(kind)
    async for batch in read_to_end(broker, [Partition(topic, number) for number in range(catalogue.partitions)]):
        for record in batch:
            yield record


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
