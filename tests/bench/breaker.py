"""What a guarded call costs: breaker and empty function, less the loop and the function; peers in the same rounds.

`us_per_call` is the median of the rounds, `us_best` the best of them. The first line is the one with a target (1.5 µs):
admit and record of a closed breaker that judges the latest 50 calls.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Mapping

import purgatory
import pybreaker

from streams.breakers import Admitted, BreakerPolicy, BreakerSettings, BreakerView, Guard
from streams.records.control import BreakerState

CALLS = 50_000
ROUNDS = 9
OPEN = BreakerState("tool:bench", "open", 1, 1, "10 of 10 calls failed", 0, until_ms=10**12)


def _guard(policy: BreakerPolicy) -> Guard:
    return Guard("tool:bench", policy, "bench", random.Random(1).random, on_change=lambda change, by: None)


def _dependency() -> int:
    return 1


def _guarded(policy: BreakerPolicy, calls: int) -> None:
    """As a worker does: time comes from outside, here so that a window by time moves on."""
    guard = _guard(policy)
    admit, record = guard.admit, guard.record
    for now_ms in range(calls):
        admitted = admit(now_ms)
        if isinstance(admitted, Admitted):
            _dependency()
            record(admitted, False, 0.001, now_ms)


def _refused(calls: int) -> None:
    guard = _guard(BreakerPolicy())
    guard.apply(OPEN)
    admit = guard.admit
    for now_ms in range(calls):
        _dependency()
        admit(now_ms)


def _consulted(state: BreakerState | None, calls: int) -> None:
    """What a shard does before it sends a call."""
    view = BreakerView(BreakerSettings())
    if state is not None:
        view.apply(state)
    admit = view.admit
    for now_ms in range(calls):
        _dependency()
        admit("tool:bench", "shards-1", now_ms)


def _pybreaker(calls: int) -> None:
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)
    call = breaker.call
    for _ in range(calls):
        call(_dependency)


def _purgatory(calls: int) -> None:
    breaker = purgatory.SyncCircuitBreakerFactory(default_threshold=5, default_ttl=60).get_breaker("bench")
    for _ in range(calls):
        with breaker:
            _dependency()


def _empty(calls: int) -> None:
    for _ in range(calls):
        _dependency()


CASES: Mapping[str, Callable[[int], None]] = {
    "guard": lambda calls: _guarded(BreakerPolicy(), calls),
    "guard, window by time": lambda calls: _guarded(BreakerPolicy(window_s=30), calls),
    "guard, open": _refused,
    "shard's replica, closed": lambda calls: _consulted(None, calls),
    "shard's replica, open": lambda calls: _consulted(OPEN, calls),
    "pybreaker": _pybreaker,
    "purgatory": _purgatory,
}


def measure(calls: int, rounds: int) -> list[dict[str, object]]:
    """Return a line for each case. Cases take turns, so that a busy machine slows all of them alike."""
    costs: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        base_s = _seconds(_empty, calls)
        for name, work in CASES.items():
            costs[name].append((_seconds(work, calls) - base_s) / calls * 1e6)
    return [
        {
            "bench": "breaker",
            "case": name,
            "us_per_call": round(statistics.median(found), 3),
            "us_best": round(min(found), 3),
        }
        for name, found in costs.items()
    ]


def _seconds(work: Callable[[int], None], calls: int) -> float:
    start = time.perf_counter()
    work(calls)
    return time.perf_counter() - start


async def run() -> None:
    """Print a JSON line for each case."""
    for line in measure(CALLS, ROUNDS):
        print(json.dumps(line))


if __name__ == "__main__":
    import asyncio

    asyncio.run(run())
