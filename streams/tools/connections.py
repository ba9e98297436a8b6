"""What declared tools keep open in the process that runs their calls: HTTP connections, sessions with MCP servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

CLOSE_S = 5.0


class Connection(Protocol):
    """Something that opens at the first call."""

    async def aclose(self) -> None:
        """Close it; a later call opens it again."""
        ...


async def close_all(connections: Iterable[Connection]) -> None:
    """Close them side by side; one that does not close within 5 s is left to the end of the process."""
    closing = [asyncio.ensure_future(one.aclose()) for one in connections]
    if not closing:
        return
    _, late = await asyncio.wait(closing, timeout=CLOSE_S)
    for task in closing:
        if task in late:
            task.cancel()
            log.warning("a tool's connection did not close in time")
        elif (error := task.exception()) is not None:
            log.warning("a tool's connection did not close", reason=f"{type(error).__name__}: {error}")
