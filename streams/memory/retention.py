"""Dropping what is too old, in bounded batches, beside the write-back: history of invocations, deleted records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from streams.errors import StoreError
from streams.memory.settings import MemorySettings

log = logging.getLogger(__name__)

_DAY_S = 86_400.0
_BETWEEN_S = 0.05
"""Pause between two batches, in which writes get their turn."""


class Droppable(Protocol):
    """Tables with old rows; see `streams.memory.upkeep.Upkeep`."""

    async def drop_invocations(self, before_s: float, most: int) -> int: ...
    async def drop_deleted(self, before_s: float, most: int) -> int: ...


@dataclass(slots=True)
class RetentionCounts:
    """Rows that were dropped so far."""

    invocations: int = 0
    deleted: int = 0


async def retain_for_ever(
    tables: Droppable, settings: MemorySettings, counts: RetentionCounts, now_s: Callable[[], float]
) -> None:
    """Drop what is due, every `retention_interval_s`, until cancelled. While Postgres is away nothing is dropped."""
    while True:
        try:
            await retain(tables, settings, counts, now_s())
        except StoreError as error:
            log.warning("old rows are not dropped: %s; trying again later", error)
        await asyncio.sleep(settings.retention_interval_s)


async def retain(tables: Droppable, settings: MemorySettings, counts: RetentionCounts, now_s: float) -> None:
    """Drop everything that is too old at *now_s*."""
    history = now_s - settings.history_days * _DAY_S
    deleted = now_s - settings.deleted_days * _DAY_S
    counts.invocations += await _all(lambda: tables.drop_invocations(history, settings.retention_rows), settings)
    counts.deleted += await _all(lambda: tables.drop_deleted(deleted, settings.retention_rows), settings)


async def _all(drop: Callable[[], Awaitable[int]], settings: MemorySettings) -> int:
    dropped = 0
    while batch := await drop():
        dropped += batch
        if batch < settings.retention_rows:
            break
        await asyncio.sleep(_BETWEEN_S)
    return dropped
