"""What metrics cost: one invocation of three steps on its shard's path, and a scrape of a histogram that is full."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from streams.agents.run import Request
from streams.observe import registry as m
from streams.observe.collect import family, spread
from streams.observe.distribution import Distributions
from streams.records.invocations import Invocation, Result
from streams.records.journal import Completion
from streams.shards.measures import ShardMeasures

INVOCATIONS, ROUNDS = 50_000, 5
NOW = 1_700_000_000.0
STEPS = (("llm", "fast"), ("tool", "look_up"), ("llm", "fast"))


async def run() -> None:
    """Print the line of `metrics`."""
    print(json.dumps(metrics(INVOCATIONS, ROUNDS)), flush=True)


def metrics(invocations: int, rounds: int) -> dict[str, Any]:
    """Return microseconds of this thread's CPU for an invocation, and for a scrape with a full histogram."""
    count = _counting()
    best_s = min(_spent_s(lambda: [count() for _ in range(invocations)]) for _ in range(rounds))
    return {
        "bench": "metrics",
        "us_per_invocation": round(best_s / invocations * 1e6, 3),
        "scrape_of_full_histogram_ms": round(min(_spent_s(_scrape()) for _ in range(rounds)) * 1e3, 2),
    }


def _counting() -> Callable[[], None]:
    """Return what counts one invocation from its start to its end, as its shard does."""
    measures = ShardMeasures(("dispute",))
    future: Any = None  # that of the step, which measuring does not look at
    now_ms = int(NOW * 1000)
    invocation = Invocation("dispute", "c-1", "k", b"{}", submitted_at_ms=now_ms - 40, deadline_ms=now_ms + 60_000)
    result = Result("dispute", "c-1", "k", "succeeded", input_tokens=900, output_tokens=80, steps=3,
                    submitted_at_ms=now_ms - 40, finished_at_ms=now_ms + 700)  # fmt: skip
    requests = [Request(step, kind, name, b"{}", None, future, NOW) for step, (kind, name) in enumerate(STEPS, 1)]
    pending = {request.step: request for request in requests}
    completions = [Completion(r.step, r.kind, r.name, "ok", NOW + 0.2, 0, value=b"{}") for r in requests]

    def count() -> None:
        measures.start(invocation, NOW)
        for completion in completions:
            if (request := pending.get(completion.step)) is not None:
                measures.step(request, completion, NOW + 0.2)
        measures.end(result)

    return count


class _Full:
    """A collector of one histogram with as many series as it may have."""

    def __init__(self) -> None:
        self._steps = Distributions(m.STEP_SECONDS)
        for number in range(1_000):
            self._steps["tool", f"tool-{number}", "ok"].add(number / 100)

    def collect(self) -> Iterator[Any]:
        yield family(m.STEP_SECONDS, spread(self._steps))


def _scrape() -> Callable[[], Any]:
    registry = CollectorRegistry()
    registry.register(_Full())
    return lambda: generate_latest(registry)


def _spent_s(work: Callable[[], Any]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began
