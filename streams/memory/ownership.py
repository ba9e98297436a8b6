"""What the sink owns, as the membership last said, and letting go of it between two batches."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

log = logging.getLogger(__name__)

_LET_GO_S = 5.0


class Ownership:
    """Listens to the membership (`OwnershipListener`).

    Attributes:
        owned: Partition numbers that are this process's now.
        yielding: Partitions are being taken away: a batch that cannot be written now should be given up.
    """

    def __init__(self) -> None:
        self.owned: frozenset[int] = frozenset()
        self._busy: list[asyncio.Lock] = []
        self.yielding = False
        self._changed = asyncio.Event()

    def enter(self) -> asyncio.Lock:
        """Return a lock that is to be held while a batch is under way; one for each that writes."""
        self._busy.append(asyncio.Lock())
        return self._busy[-1]

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Own *partitions* from now on."""
        self.owned = partitions
        self._changed.set()

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Let the batch under way end, so that the next owner need not write it again; it may not take for ever."""
        self.yielding = True
        try:
            async with asyncio.timeout(_LET_GO_S), AsyncExitStack() as stack:
                for lock in self._busy:
                    await stack.enter_async_context(lock)
                self.owned -= partitions
        except TimeoutError:
            log.warning(
                "a batch did not end within %.0f s; the next owner of its partitions writes it again", _LET_GO_S
            )
            self.owned -= partitions
        finally:
            self.yielding = False
            self._changed.set()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when something was assigned or revoked since the last call, or after *timeout_s*."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()
