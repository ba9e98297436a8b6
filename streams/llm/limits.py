"""What a provider allows one API key: amounts a minute, and calls at once. Values only; `key_buckets` applies them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from streams.llm.usage import Usage

Quantity = Literal["requests", "tokens", "input_tokens", "output_tokens"]
"""What a provider counts by the minute. `tokens` is input and output together, as OpenAI counts."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)


@dataclass(frozen=True, slots=True)
class Limit:
    """An amount a minute, as a continuous bucket.

    Attributes:
        per_minute: What refills in 60 seconds.
        burst: What can be taken at once after a pause; a minute's worth if None. Requests take varying time from here
            to the provider, so a burst of exactly the provider's arrives compressed and meets a 429. Leave as much as
            refills in the time by which they vary: half a second of the limit is ample.

    Raises:
        ValueError: a value is not above 0 and finite.
    """

    per_minute: float
    burst: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("per_minute", self.per_minute), ("burst", self.burst)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be above 0 and finite, got {value}; leave the limit out for none")

    @property
    def capacity(self) -> float:
        """Most that can be taken at once."""
        return self.per_minute if self.burst is None else self.burst

    @property
    def per_s(self) -> float:
        """What refills in a second."""
        return self.per_minute / 60.0


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one API key; None means that the provider does not limit it.

    Attributes:
        concurrency: Calls that may be open at once.

    Raises:
        ValueError: *concurrency* is below 1.
    """

    requests: Limit | None = None
    tokens: Limit | None = None
    input_tokens: Limit | None = None
    output_tokens: Limit | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}; leave it out for no limit")

    def of(self, quantity: Quantity) -> Limit | None:
        """Return the limit of *quantity*."""
        limit: Limit | None = getattr(self, quantity)
        return limit


@dataclass(frozen=True, slots=True)
class Part:
    """What one process may use of a key that several processes share.

    The parts of all processes together are never more than the whole, so neither is what they send: each bucket then
    is a part of the provider's, and all of them together hold no more than it does.

    Attributes:
        rate: Share of what refills, from 0 to 1.
        burst: Share of what can be taken at once.
        slots: Calls open at once; None for all that the limits allow.
    """

    rate: float = 1.0
    burst: float = 1.0
    slots: int | None = None


WHOLE = Part()
NOTHING = Part(0.0, 0.0, 0)


def amount_of(quantity: Quantity, usage: Usage) -> int:
    """Return what one call with *usage* takes from the bucket of *quantity*."""
    match quantity:
        case "requests":
            return 1
        case "tokens":
            return usage.total_tokens
        case "input_tokens":
            return usage.input_tokens
        case "output_tokens":
            return usage.output_tokens
