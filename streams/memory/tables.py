"""The tables in SQL, and how records become their rows and come back.

Each table has a staging twin, a temporary table of the connection: a batch is copied there and merged in one statement,
whose guard keeps an older write from replacing a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import orjson
from psycopg.types.json import Jsonb

from streams.records.codec import open_value, seal_value
from streams.records.invocations import Result
from streams.records.state import StateDelta

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Table(Generic[R]):
    """A table that the sink fills.

    Attributes:
        columns: Name and Postgres type.
        key: Columns by which rows are matched.
        newer: Condition on `kept` and `new` under which a row replaces the one that is there.
        row: A record's values, in the order of `columns`.
    """

    name: str
    columns: Sequence[tuple[str, str]]
    key: Sequence[str]
    newer: str
    row: Callable[[R], tuple[Any, ...]]

    @property
    def types(self) -> list[str]:
        """Types of the columns, for COPY in binary form."""
        return [kind for _, kind in self.columns]

    @property
    def staging(self) -> str:
        """Statement that makes the staging table, emptied by each commit."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns)
        return f"CREATE TEMP TABLE IF NOT EXISTS staging_{self.name} ({columns}) ON COMMIT DELETE ROWS"

    @property
    def copy(self) -> str:
        """Statement that copies rows into the staging table."""
        return f"COPY staging_{self.name} ({self._names}) FROM STDIN (FORMAT BINARY)"

    @property
    def merge(self) -> str:
        """Statement that merges the staging table, guarded."""
        names = [name for name, _ in self.columns]
        matched = " AND ".join(f"kept.{name} = new.{name}" for name in self.key)
        update = ", ".join(f"{name} = new.{name}" for name in names if name not in self.key)
        values = ", ".join(f"new.{name}" for name in names)
        return (
            f"MERGE INTO {self.name} AS kept USING staging_{self.name} AS new ON {matched} "
            f"WHEN MATCHED AND {self.newer} THEN UPDATE SET {update} "
            f"WHEN NOT MATCHED THEN INSERT ({self._names}) VALUES ({values})"
        )

    def select(self, where: str) -> str:
        """Statement that reads rows."""
        return f"SELECT {self._names} FROM {self.name} WHERE {where}"

    @property
    def _names(self) -> str:
        return ", ".join(name for name, _ in self.columns)


def _state_row(delta: StateDelta) -> tuple[Any, ...]:
    return (
        delta.owner,
        delta.record,
        seal_value(delta.value, "state"),
        Jsonb(delta.vector, dumps=orjson.dumps),
        delta.epoch,
        delta.sequence,
        delta.writer,
        delta.invocation,
        delta.deleted,
        _time(delta.at_ms),
    )


def state_of(row: Sequence[Any]) -> StateDelta:
    """Return the record of a row of `state`."""
    owner, record, value, vector, epoch, sequence, writer, invocation, deleted, updated_at = row
    return StateDelta(
        owner,
        record,
        open_value(value, "state"),
        epoch,
        sequence,
        writer,
        _milliseconds(updated_at),
        deleted,
        invocation,
        vector,
    )


def _result_row(result: Result) -> tuple[Any, ...]:
    return (
        f"{result.agent}/{result.key}",
        result.id,
        result.agent,
        result.key,
        result.idempotency_key,
        result.tenant,
        result.version,
        result.status,
        seal_value(result.value, "invocations"),
        result.error_type,
        result.error_message,
        result.error_field,
        result.degraded,
        result.steps,
        result.input_tokens,
        result.output_tokens,
        result.cost,
        _time(result.submitted_at_ms),
        _time(result.started_at_ms) if result.started_at_ms else None,
        _time(result.finished_at_ms),
    )


def result_of(row: Sequence[Any]) -> Result:
    """Return the result of a row of `invocations`."""
    (_, _, agent, key, idempotency_key, tenant, version, status, value, error_type, error_message, error_field,
     degraded, steps, input_tokens, output_tokens, cost, submitted_at, started_at, finished_at) = row  # fmt: skip
    return Result(
        agent,
        key,
        idempotency_key,
        status,
        open_value(value, "invocations"),
        error_type,
        error_message,
        error_field,
        degraded,
        tenant=tenant,
        version=version,
        steps=steps,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost=cost,
        submitted_at_ms=_milliseconds(submitted_at),
        started_at_ms=_milliseconds(started_at) if started_at else 0,
        finished_at_ms=_milliseconds(finished_at),
    )


STATE: Table[StateDelta] = Table(
    "state",
    (
        ("owner", "text"), ("record", "text"), ("value", "bytea"), ("vector", "jsonb"), ("epoch", "bigint"),
        ("sequence", "bigint"), ("writer", "text"), ("invocation", "text"), ("deleted", "boolean"),
        ("updated_at", "timestamptz"),
    ),
    ("owner", "record"),
    "(kept.epoch, kept.sequence) < (new.epoch, new.sequence)",
    _state_row,
)  # fmt: skip

INVOCATIONS: Table[Result] = Table(
    "invocations",
    (
        ("owner", "text"), ("id", "text"), ("agent", "text"), ("key", "text"), ("idempotency_key", "text"),
        ("tenant", "text"), ("version", "text"), ("status", "text"), ("value", "bytea"), ("error_type", "text"),
        ("error_message", "text"), ("error_field", "text"), ("degraded", "boolean"), ("steps", "bigint"),
        ("input_tokens", "bigint"), ("output_tokens", "bigint"), ("cost", "double precision"),
        ("submitted_at", "timestamptz"), ("started_at", "timestamptz"), ("finished_at", "timestamptz"),
    ),
    ("owner", "id"),
    "kept.finished_at < new.finished_at",
    _result_row,
)  # fmt: skip


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
