"""What one step of an engine wants written: collected in order, encoded, with the right topic, key and partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streams.records import encode, headers
from streams.records.ids import agent_of
from streams.records.invocations import ChildOutcome, Invocation, Result
from streams.records.signals import Answer
from streams.records.state import StateDelta
from streams.shards.effects import Write

EncodeResult = Callable[[Result], tuple[bytes, bytes]]
"""Value and content type of a result on the result topic."""


class Outbox:
    """Collects the writes of one step.

    Args:
        source: Name of the application, for CloudEvents headers.
        partition: The shard's; everything but children and outcomes for parents elsewhere is written there.
    """

    def __init__(
        self, source: str, partition: int, partition_of: Callable[[str], int], encode_result: EncodeResult
    ) -> None:
        self._source = source
        self._partition = partition
        self._partition_of = partition_of
        self._encode_result = encode_result
        self._writes: list[Write] = []

    def take(self) -> list[Write]:
        """Return what was collected, and start anew."""
        writes, self._writes = self._writes, []
        return writes

    def add(self, write: Write) -> None:
        """Collect a write that is complete already."""
        self._writes.append(write)

    def journal(self, key: bytes, value: bytes | None) -> None:
        """Write a journal record; None tombstones it."""
        self._writes.append(Write("journal", key, value, self._partition))

    def journal_all(self, records: Iterator[tuple[bytes, bytes | None]]) -> None:
        """Write several journal records."""
        for key, value in records:
            self._writes.append(Write("journal", key, value, self._partition))

    def forward(self, invocation: Invocation, partition: int) -> None:
        """Send an invocation that has landed on the wrong partition to the right one."""
        head = headers.internal("invocation", invocation.traceparent)
        self._writes.append(Write("invocations", invocation.agent_id.encode(), encode(invocation), partition, head))

    def result(self, result: Result, invocation: Invocation) -> bytes | None:
        """Publish a result, and tell the parent that waits for it; return its record where one was made of it."""
        value, content_type = self._encode_result(result)
        head = headers.public(
            "result",
            record_id=result.id,
            source=self._source,
            content_type=content_type,
            traceparent=result.traceparent,
        )
        self._writes.append(Write("results", invocation.agent_id.encode(), value, self._partition, head))
        if invocation.parent and invocation.parent_awaits:
            self._outcome(result, invocation)
        return value if content_type == headers.AVRO_TYPE else None

    def state(self, delta: StateDelta) -> None:
        """Write a state record."""
        key = f"{delta.owner}\x00{delta.record}".encode()
        head = headers.internal("state-delta")
        self._writes.append(Write("state-deltas", key, encode(delta), self._partition, head))

    def forget_state(self, key: bytes) -> None:
        """Tombstone a state record: it is no longer kept in the log."""
        self._writes.append(Write("state-deltas", key, None, self._partition))

    def answer(self, answer: Answer) -> None:
        """Answer a client."""
        self._writes.append(Write("answers", answer.client.encode(), encode(answer), -1, headers.internal("answer")))

    def _outcome(self, result: Result, invocation: Invocation) -> None:
        parent = agent_of(invocation.parent)
        outcome = ChildOutcome(
            invocation.parent, invocation.parent_incarnation, invocation.parent_step, invocation.id, encode(result)
        )
        head = headers.internal("child-outcome", result.traceparent)
        self._writes.append(Write("inbox", parent.encode(), encode(outcome), self._partition_of(parent), head))
