"""What a guarded call costs: admit and record on a closed breaker, less the loop around them."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable

from streams.breakers import Admitted, BreakerPolicy, Guard

CALLS = 200_000
ROUNDS = 7


def _guarded(calls: int) -> None:
    guard = Guard("tool:bench", BreakerPolicy(), "bench", random.Random(1).random)
    admit, record = guard.admit, guard.record
    for _ in range(calls):
        admitted = admit(1_000)
        if isinstance(admitted, Admitted):
            record(admitted, False, 0.001, 1_000)


def _empty(calls: int) -> None:
    for _ in range(calls):
        pass


def _seconds(work: Callable[[int], None]) -> float:
    start = time.perf_counter()
    work(CALLS)
    return time.perf_counter() - start


async def run() -> None:
    """Print one JSON line: `us_per_call`, the median of several rounds, and the best of them."""
    costs = [(_seconds(_guarded) - _seconds(_empty)) / CALLS * 1e6 for _ in range(ROUNDS)]
    line = {"bench": "breaker", "us_per_call": round(statistics.median(costs), 3), "us_best": round(min(costs), 3)}
    print(json.dumps(line))


if __name__ == "__main__":
    import asyncio

    asyncio.run(run())
