"""How much of a shard is open: what goes into the note beside its positions."""

from __future__ import annotations

from collections.abc import Iterable

from streams.records.load import Load, Queue
from streams.shards.live import PARKED, RUNNING, Live


def load_of(lives: Iterable[Live], working: int, now: float) -> Load:
    """Return the load of a shard. Looks at every live invocation: 50 ns each.

    Args:
        working: Invocations with a tool or LLM step out.
        now: Seconds since the epoch.
    """
    now_ms = int(now * 1000)
    resting = parked = 0
    queues: dict[str, Queue] = {}
    for live in lives:
        if live.phase == PARKED:
            parked += 1
        elif live.phase == RUNNING:
            resting += not live.working
        elif live.invocation.not_before_ms > now_ms:
            resting += 1
        else:
            name, submitted_ms = live.invocation.agent, live.invocation.submitted_at_ms
            depth, oldest_ms = queues.get(name, (0, submitted_ms))
            queues[name] = Queue(depth + 1, min(oldest_ms, submitted_ms))
    queued = sum(queue.depth for queue in queues.values())
    return Load(now_ms, working, queued, resting, parked, queues=queues)
