"""Of many writes to one record only the newest reaches Postgres. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from streams.memory.decode import Row
from streams.records.invocations import Result
from streams.records.state import StateDelta


def newest_states(rows: Iterable[Row[StateDelta]]) -> list[Row[StateDelta]]:
    """Return, for each (owner, record), the row with the highest (epoch, sequence); deletes are writes like others.

    Sorted by key, so that two sinks that write the same rows (one of them a zombie) take their locks in one order.
    """
    newest: dict[tuple[str, str], Row[StateDelta]] = {}
    for row in rows:
        delta = row.record
        key = (delta.owner, delta.record)
        known = newest.get(key)
        if known is None or (known.record.epoch, known.record.sequence) < (delta.epoch, delta.sequence):
            newest[key] = row
    return [newest[key] for key in sorted(newest)]


def newest_results(rows: Iterable[Row[Result]]) -> list[Row[Result]]:
    """Return, for each invocation, the result that finished last, sorted by invocation ID."""
    newest: dict[str, Row[Result]] = {}
    for row in rows:
        known = newest.get(row.record.id)
        if known is None or known.record.finished_at_ms < row.record.finished_at_ms:
            newest[row.record.id] = row
    return [newest[key] for key in sorted(newest)]
