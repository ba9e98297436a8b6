"""Memory of a process with 10,000 open invocations: four shards' engines, each run waiting for its model.

As in a process of `streams run --role shards`, all within `max_hot`: every handler is in memory, the dearest case. What
the process needs before the first invocation is told apart.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

from streams.cli.roles import collect_rarely
from streams.records import decode
from streams.shards.effects import Event
from tests.bench.engine import invocation, new_engine

OPEN, SHARDS = 10_000, 4
BATCH = 500


async def run() -> None:
    """Print the line."""
    print(json.dumps(open_invocations(OPEN)), flush=True)


def open_invocations(count: int) -> dict[str, Any]:
    """Return the figures of a process of its own with so many open invocations."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_fill, (count,))


def _fill(count: int) -> dict[str, Any]:
    import streams.shards.role  # noqa: F401  what such a process has imported

    collect_rarely()
    before = rss_mb()
    engines = [new_engine() for _ in range(SHARDS)]
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        for shard, engine in enumerate(engines):
            mine = [invocation("three_steps", n, agents=count) for n in numbers if n % SHARDS == shard]
            engine.step([Event("invocations", decode(data)) for data in mine], 1.7e9 + start / 1000)
    found = sum(engine.open_count for engine in engines)
    if found != count:
        raise AssertionError(f"{found} of {count} are open")
    after = rss_mb()
    return {
        "bench": "open_invocations",
        "open": count,
        "rss_mb": round(after, 1),
        "before_mb": round(before, 1),
        "kb_each": round((after - before) * 1024 / count, 2),
    }


def rss_mb() -> float:
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) / 1024
