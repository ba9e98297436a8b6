"""Key buckets against the mock provider's meters in virtual time: two independent implementations of one limit."""

import heapq
import itertools
import random
from collections.abc import Callable
from functools import partial

import pytest

from streams.demo.provider.config import Limits
from streams.demo.provider.meter import KeyMeters
from streams.llm.key_buckets import KeyBuckets
from streams.llm.limits import KeyLimits, Limit
from streams.llm.usage import Usage

MINUTES = 10


def drive(ours: KeyLimits, theirs: Limits, seed: int) -> tuple[int, int, Usage]:
    """Send as fast as the buckets allow; return requests, refusals and tokens after ten minutes.

    Requests travel for up to 20 ms and take up to 4 s, answers use a part of what was reserved for them.
    """
    chance = random.Random(seed)
    key, provider = KeyBuckets("main", ours, now=0.0), KeyMeters(theirs, 0)
    now, requests, refused, inputs, outputs = 0.0, 0, 0, 0, 0
    events: list[tuple[float, int, Callable[[float], None]]] = []
    order = itertools.count()

    def plan(at: float, event: Callable[[float], None]) -> None:
        heapq.heappush(events, (at, next(order), event))

    def arrive(used: Usage, at: float) -> None:
        nonlocal refused
        refused += provider.grant(used.input_tokens, used.output_tokens, int(at * 1e9)) is not None

    while now < MINUTES * 60:
        estimate = Usage(chance.choice([100, 300, 2000]), chance.choice([50, 500, 1000]))
        while events and events[0][0] <= key.starts_at(estimate, now):
            now, _, event = heapq.heappop(events)
            event(now)
        now = key.starts_at(estimate, now)
        reservation = key.reserve(estimate, now)
        assert reservation is not None
        used = Usage(estimate.input_tokens, round(estimate.output_tokens * chance.random()))
        arrives = now + chance.uniform(0, 0.02)
        leaves = arrives + chance.uniform(0.1, 4)
        plan(arrives, partial(arrive, used))
        plan(leaves, lambda at: provider.end())
        plan(leaves + chance.uniform(0, 0.02), partial(key.settle, reservation, used))
        requests += 1
        inputs, outputs = inputs + used.input_tokens, outputs + used.output_tokens
    return requests, refused, Usage(inputs, outputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (KeyLimits(requests=Limit(600, burst=590)), Limits(requests_per_minute=600)),
        (KeyLimits(tokens=Limit(400_000, burst=390_000)), Limits(tokens_per_minute=400_000)),
        (KeyLimits(input_tokens=Limit(300_000, burst=290_000)), Limits(input_tokens_per_minute=300_000)),
        (KeyLimits(output_tokens=Limit(100_000, burst=98_000)), Limits(output_tokens_per_minute=100_000)),
        (
            KeyLimits(requests=Limit(500, burst=490), tokens=Limit(500_000, burst=490_000), concurrency=30),
            Limits(requests_per_minute=500, tokens_per_minute=500_000, concurrency=30),
        ),
    ],
    ids=["requests", "tokens", "input", "output", "all"],
)
def test_the_limit_is_used_and_nothing_is_refused(ours, theirs, seed):
    requests, refused, total = drive(ours, theirs, seed)
    assert refused == 0
    if ours.concurrency is not None:
        return
    allowed = MINUTES + 1  # the burst is a minute's worth
    used_share = max(
        requests / allowed / (theirs.requests_per_minute or 10**9),
        total.total_tokens / allowed / (theirs.tokens_per_minute or 10**9),
        total.input_tokens / allowed / (theirs.input_tokens_per_minute or 10**9),
        total.output_tokens / allowed / (theirs.output_tokens_per_minute or 10**9),
    )
    assert used_share >= 0.98
