"""What an owned queue reads and writes, and what it asks of the role that works its calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from streams.broker.port import LogRecord, Message


class Session(Protocol):
    """What a role does with the calls of one partition while it owns it."""

    def answered(self, result: LogRecord) -> None:
        """Take note of a result that exists already."""
        ...

    async def handle(self, record: LogRecord) -> Message | None:
        """Work on one call and return the message that answers it, None where nothing must be written.

        Called concurrently. What it raises ends the session, so it answers failures of the work as results.
        """
        ...


class SharingSession(Session, Protocol):
    """A session whose calls are counted by lot (a tool, say), each with a share of the look-ahead.

    What exceeds the share of its lot moves to the overflow lane, so that it stands in no other lot's way.
    """

    def lot(self, record: LogRecord) -> str:
        """Return the lot that a record of a call topic belongs to; empty for what is done at once."""
        ...

    def share(self, lot: str) -> int:
        """Return how many calls of a lot may be open in this partition."""
        ...

    def alone(self, topic: str) -> str:
        """Return the lot that has a topic to itself, so that it may wait there; empty where several share it."""
        ...

    async def move(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Write *messages* in one transaction that a later owner of the partition fences; return their offsets."""
        ...

    def let_go(self) -> None:
        """End at once, without an answer, what has not begun: the next owner begins it."""
        ...


class Opener(Protocol):
    """Makes the session of a partition; a `SharingSession` where the plan has an overflow lane."""

    def __call__(self, partition: int) -> AbstractAsyncContextManager[Session]: ...


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """What is read and written.

    Attributes:
        role: Group names are `<namespace>-<role>` (positions) and `<namespace>-<role>-owners`.
        calls: Topics of calls: the base topic and its lanes.
        results: Topic of their results.
        history_s: Seconds for which calls are kept after they were answered.
        max_open: Calls of a partition that are worked on or wait for a place; beyond it nothing more is read. With an
            overflow lane the shares of the lots bound them instead.
        overflow: Topic that takes what exceeds the share of its lot; empty for none.
        max_parked: Calls of the overflow lane that are remembered, by offset alone, until their lot has room; beyond
            it no more of the lane is looked at.
    """

    namespace: str
    role: str
    anchor: str
    calls: tuple[str, ...]
    results: str
    dead_letters: str
    history_s: float
    max_open: int = 1_000
    overflow: str = ""
    max_parked: int = 50_000
