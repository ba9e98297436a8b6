"""Writing state records: each gets its version and its place in the order of all writes of the partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.records import encode
from streams.records.state import StateDelta

if TYPE_CHECKING:
    from streams.shards.engine import Engine


class StateWrites:
    """Writes state records in the step under way of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, owner: str, record: str, value: bytes | None, *, writer: str, invocation: str = "") -> StateDelta:
        """Write a record; None deletes it. Return the delta, with the new version."""
        engine = self._engine
        self._freeze_readers(owner)
        engine.sequence += 1
        delta = StateDelta(
            owner=owner,
            record=record,
            value=value,
            epoch=engine.epoch,
            sequence=engine.sequence,
            writer=writer,
            at_ms=int(engine.now * 1000),
            deleted=value is None,
            invocation=invocation,
            vector=engine.state.next_vector(owner, record, writer),
        )
        engine.state.put(delta)
        engine.outbox.state(delta)
        return delta

    def _freeze_readers(self, owner: str) -> None:
        """Journal the state that concurrent readers have begun with, before it changes under them."""
        engine = self._engine
        instance = engine.instances.get(owner)
        for reader in instance.readers.values() if instance else ():
            if reader.snapshot is None:
                reader.snapshot = tuple(encode(delta) for delta in engine.state.of(owner).all())
                engine.touch(reader)
