"""What a consumer has read and not finished: a note beside its committed position, one for each partition.

One writer (the partition's owner), as old as the position, replaced with it, and still there when the consumer is dead:
so whoever asks for the group's offsets gets position and open work of the same moment, and `kafka-consumer-groups`,
Burrow and KEDA see the plain offset. It is JSON of at most `MOST_BYTES`, because Kafka keeps at most 4,096 with an
offset (`offset.metadata.max.bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

MOST_BYTES = 2_000
OTHERS = "*"
"""Name under which the queues are summed up that the note has no room for."""


class Queue(NamedTuple):
    """Invocations of one agent that wait in a shard.

    Attributes:
        depth: How many.
        oldest_ms: When the oldest of them was submitted, in ms since the epoch.
    """

    depth: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Load:
    """Open work of one partition.

    Attributes:
        at_ms: When this was so, in ms since the epoch.
        working: Read and under way: a shard's invocations with a tool or LLM step out, a worker's unfinished calls.
        queued: Waiting for their agent instance (mailboxes).
        resting: Waiting for a child, a timer, a signal or their `not_before`: nothing that a consumer could hurry up.
        parked: Waiting for an operator or a deploy.
        read: Offset up to which was read, where that is beyond the committed position; -1 where it is not.
        queues: What is `queued`, by agent name.
    """

    at_ms: int
    working: int = 0
    queued: int = 0
    resting: int = 0
    parked: int = 0
    read: int = -1
    queues: Mapping[str, Queue] = field(default_factory=dict)

    @property
    def open(self) -> int:
        """What counts as backlog beside the unread: under way, and waiting for its turn."""
        return self.working + self.queued

    def note(self) -> str:
        """Return the note; agents with the shortest queues are summed up when there are too many."""
        queues = dict(sorted(self.queues.items(), key=lambda entry: (-entry[1].depth, entry[0])))
        while True:
            written = orjson.dumps(
                {
                    "v": 1,
                    "at": self.at_ms,
                    "working": self.working,
                    "queued": self.queued,
                    "resting": self.resting,
                    "parked": self.parked,
                    "read": self.read,
                    "queues": {name: [*queue] for name, queue in queues.items()},
                }
            )
            if len(written) <= MOST_BYTES:
                return written.decode()
            queues = _shortened(queues)


def read_note(note: str) -> Load | None:
    """Return what a note says; None for one that is empty or not of this kind (an operator has reset the offset)."""
    try:
        found: Any = orjson.loads(note)
        queues = {str(name): Queue(int(depth), int(oldest)) for name, (depth, oldest) in found["queues"].items()}
        at_ms, working, queued, resting, parked, read = (
            int(found[name]) for name in ("at", "working", "queued", "resting", "parked", "read")
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return Load(at_ms, working, queued, resting, parked, read, queues)


def _shortened(queues: dict[str, Queue]) -> dict[str, Queue]:
    """Sum up the shorter half."""
    kept = [name for name in queues if name != OTHERS]
    kept = kept[: len(kept) // 2]
    rest = [queue for name, queue in queues.items() if name not in kept]
    others = Queue(sum(q.depth for q in rest), min(q.oldest_ms for q in rest))
    return {name: queues[name] for name in kept} | {OTHERS: others}
