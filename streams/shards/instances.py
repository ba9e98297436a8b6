"""Agent instances at work: who runs, who waits for a turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from streams.shards.live import Live


@dataclass(slots=True)
class Instance:
    """One agent instance: who runs, who waits.

    Attributes:
        active: The invocation that runs alone.
        readers: Invocations of a concurrent agent.
        turning: The next one is being chosen.
    """

    active: Live | None = None
    mailbox: deque[Live] = field(default_factory=deque)
    readers: dict[str, Live] = field(default_factory=dict)
    turning: bool = False

    def started(self) -> Iterator[Live]:
        """Yield the invocations that have had their turn and have not ended."""
        if self.active is not None:
            yield self.active
        yield from self.readers.values()
