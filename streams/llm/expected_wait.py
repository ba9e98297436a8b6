"""How long will a request that comes now be held? An estimate for people who ask what is going on; it decides nothing.

What is held goes out as fast as the scarcest of the limits lets it: what a bucket lacks for all of them, divided by its
refill, or, where calls at once are the limit, one call after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from streams.llm.key_buckets import KeyStatus
from streams.llm.limits import amount_of
from streams.llm.usage import Usage


def expected_wait_s(held: int, sample: Sequence[Usage], keys: Sequence[KeyStatus], mean_call_s: float) -> float:
    """Return seconds; 0 when a request would go out at once.

    Args:
        held: Requests that go first.
        sample: Estimates of some of them; a request of unknown size counts as one of these, or as nothing.
        keys: What each key of the pool has left.
        mean_call_s: Seconds that a call takes.
    """
    usable = [key for key in keys if key.out_for_s <= 0]
    if not usable:
        return min((key.out_for_s for key in keys), default=math.inf)
    keys, ahead = usable, held + 1
    wait = min(key.cools_for_s for key in keys)
    for quantity in {bucket.quantity for key in keys for bucket in key.buckets}:
        buckets = [bucket for key in keys for bucket in key.buckets if bucket.quantity == quantity]
        if len(buckets) < len(keys):
            continue  # a key without this limit takes what the others cannot
        each = sum(amount_of(quantity, usage) for usage in sample) / len(sample) if sample else 0.0
        if quantity == "requests":
            each = 1.0
        missing = ahead * each - sum(bucket.available for bucket in buckets)
        refill_per_s = sum(bucket.per_minute for bucket in buckets) / 60
        wait = max(wait, missing / refill_per_s)
    if all(key.concurrency is not None for key in keys):
        places = sum(key.concurrency or 0 for key in keys)
        free = places - sum(key.running for key in keys)
        if ahead > free:
            wait = max(wait, (ahead - free) / places * mean_call_s if places else math.inf)
    return wait
