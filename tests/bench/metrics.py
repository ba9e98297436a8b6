"""What metrics cost: one invocation of three steps on its shard's path, and a scrape of a histogram that is full."""

from __future__ import annotations

import json
import time
from asyncio import Future
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from streams.agents.run import Request
from streams.observe import registry as m
from streams.observe.collect import RoleCollector
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
    measures, future = ShardMeasures(("dispute",)), Future[Any](loop=SimpleNamespace(get_debug=bool))  # type: ignore[arg-type]
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


def _scrape() -> Callable[[], Any]:
    """Return a scrape of as many series as one histogram may have."""
    measures = ShardMeasures()
    steps = next(each for each in measures.distributions if each.metric is m.STEP_SECONDS)
    _fill(steps)
    registry = CollectorRegistry()
    registry.register(RoleCollector({"shards": SimpleNamespace(processors={}, measures=measures)}, 1_000))
    return lambda: generate_latest(registry)


def _fill(steps: Distributions) -> None:
    for number in range(1_000):
        steps["tool", f"tool-{number}", "ok"].add(number / 100)


def _spent_s(work: Callable[[], Any]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began
