"""What each tenant used of each model in each window: sums over the log of results, exact up to an offset.

Pure. A row is a function of its shard's results before an offset, so whoever writes it writes the same: of two rows of
one key the one that goes further is right, a row that comes late or twice harms nothing, and after a crash the rest is
counted on top of what was written, each result once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from streams.records.control import Usage
from streams.records.steps import LlmResult

Window = Literal["hour", "day", "month"]

MAX_ROWS = 200_000
"""Rows kept in memory; tenants that come beyond it are counted together."""

OTHERS = "other"
"""Name under which they are."""


def window_start_ms(at_ms: int, window: Window) -> int:
    """Return the beginning of the hour, day or month of UTC that a time in milliseconds is in."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC).replace(minute=0, second=0, microsecond=0)
    if window != "hour":
        at = at.replace(hour=0)
    if window == "month":
        at = at.replace(day=1)
    return int(at.timestamp() * 1000)


def window_before_ms(start_ms: int, window: Window) -> int:
    """Return the beginning of the window before the one that begins at *start_ms*."""
    return window_start_ms(start_ms - 1, window)


class RowKey(NamedTuple):
    """Whose row it is."""

    window_start_ms: int
    shard: int
    tenant: str
    model: str

    def encode(self) -> bytes:
        """Return the record key."""
        return f"{self.window_start_ms}/{self.shard}/{self.model}/{self.tenant}".encode()


@dataclass(slots=True)
class _Row:
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    through: int = 0


@dataclass(slots=True)
class Spent:
    """What a tenant used in a window, of all models and in all shards."""

    tokens: int = 0
    cost: float = 0.0


@dataclass(slots=True)
class UsageSums:
    """Rows of the current window and the one before.

    Attributes:
        max_rows: Bound on what is kept.
        from_ms: Windows that begin before it are not known here, and nothing is counted for them.
    """

    window: Window = "day"
    max_rows: int = MAX_ROWS
    from_ms: int = 0
    _rows: dict[RowKey, _Row] = field(default_factory=dict)
    _spent: dict[tuple[int, str], Spent] = field(default_factory=dict)
    _dirty: set[RowKey] = field(default_factory=set)

    def count(self, shard: int, offset: int, at_ms: int, result: LlmResult) -> bool:
        """Add a result of the log; False when its row has it already, its window is not known, or it used nothing.

        Args:
            at_ms: The record's time, which says the window.
        """
        if at_ms < self.from_ms or not (result.input_tokens or result.output_tokens or result.cost):
            return False
        _, _, model = result.served_by.partition(":")
        key = RowKey(window_start_ms(at_ms, self.window), shard, result.tenant, model or result.model)
        row = self._row(key)
        if row is None:
            key = key._replace(tenant=OTHERS)
            row = self._rows.setdefault(key, _Row())
        if offset < row.through:
            return False
        row.through = offset + 1
        row.requests += 1
        self._add(key, row, result.input_tokens, result.output_tokens, result.cost)
        self._dirty.add(key)
        return True

    def merge(self, record: Usage, *, own: bool) -> None:
        """Follow a row that somebody wrote.

        Args:
            own: It is of a shard that is counted here; should it be behind, it is written again.
        """
        if record.window_start_ms < self.from_ms:
            return
        key = RowKey(record.window_start_ms, record.shard, record.tenant, record.model)
        row = self._row(key)
        if row is None:
            return
        if record.through < row.through:
            if own:
                self._dirty.add(key)
            return
        row.through, row.requests = record.through, record.requests
        self._add(
            key,
            row,
            record.input_tokens - row.input_tokens,
            record.output_tokens - row.output_tokens,
            record.cost - row.cost,
        )

    def drain(self) -> dict[RowKey, Usage]:
        """Return the rows that were changed since they were written last."""
        dirty, self._dirty = self._dirty, set()
        return {key: self._record(key) for key in sorted(dirty) if key in self._rows}

    def put_back(self, keys: Iterator[RowKey] | list[RowKey]) -> None:
        """Have rows written again that could not be."""
        self._dirty.update(keys)

    def forget_before(self, start_ms: int) -> None:
        """Keep no row of windows that begin before *start_ms*, unless it is still to be written."""
        if start_ms <= self.from_ms:
            return
        self.from_ms = start_ms
        self._rows = {k: row for k, row in self._rows.items() if k.window_start_ms >= start_ms or k in self._dirty}
        self._spent = {key: spent for key, spent in self._spent.items() if key[0] >= start_ms}

    def spent(self, tenant: str, window_start: int) -> Spent:
        """Return what a tenant used in the window that begins then; do not change it."""
        return self._spent.get((window_start, tenant)) or Spent()

    def rows(self) -> Iterator[Usage]:
        """Yield every row."""
        return map(self._record, self._rows)

    def _row(self, key: RowKey) -> _Row | None:
        row = self._rows.get(key)
        if row is None and len(self._rows) < self.max_rows:
            row = self._rows[key] = _Row()
        return row

    def _add(self, key: RowKey, row: _Row, input_tokens: int, output_tokens: int, cost: float) -> None:
        row.input_tokens += input_tokens
        row.output_tokens += output_tokens
        row.cost += cost
        spent = self._spent.setdefault((key.window_start_ms, key.tenant), Spent())
        spent.tokens += input_tokens + output_tokens
        spent.cost += cost

    def _record(self, key: RowKey) -> Usage:
        row = self._rows[key]
        return Usage(
            tenant=key.tenant,
            model=key.model,
            window_start_ms=key.window_start_ms,
            requests=row.requests,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cost=row.cost,
            shard=key.shard,
            through=row.through,
        )
