"""What the mock provider grants a key. Written apart from `streams.llm` on purpose, and differently: whole numbers of
token-nanoseconds that drain, instead of a level that fills.

A meter is a leaky bucket: each grant pours in, a minute's limit drains in a minute, and it must never overflow. That is
the continuous token bucket, seen from below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streams.demo.provider.config import Limits

MINUTE_NS = 60_000_000_000

Counted = Literal["requests", "tokens", "input-tokens", "output-tokens"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was refused.

    Attributes:
        wait_ns: When to come back; None if the request can never be granted.
    """

    what: Counted | Literal["concurrency"]
    limit: int
    used: int
    asked: int
    wait_ns: int | None


class Meter:
    """One limit of one key. Times are integer nanoseconds of a monotonic clock."""

    __slots__ = ("_at_ns", "_filled", "_size", "name", "per_minute")

    def __init__(self, name: Counted, per_minute: int, burst_s: float, now_ns: int) -> None:
        self.name = name
        self.per_minute = per_minute
        self._size = max(1, round(per_minute * burst_s / 60)) * MINUTE_NS
        self._filled = 0
        self._at_ns = now_ns

    def wait_ns(self, amount: int, now_ns: int) -> int | None:
        """Return how long *amount* must wait; 0 if it fits now, None if it never will."""
        over = self._drained(now_ns) + amount * MINUTE_NS - self._size
        if over <= 0:
            return 0
        return None if amount * MINUTE_NS > self._size else -(-over // self.per_minute)

    def pour(self, amount: int, now_ns: int) -> None:
        """Count *amount*."""
        self._filled = self._drained(now_ns) + amount * MINUTE_NS
        self._at_ns = now_ns

    def left(self, now_ns: int) -> int:
        """Return what is left, in whole tokens."""
        return (self._size - self._drained(now_ns)) // MINUTE_NS

    def full_in_ns(self, now_ns: int) -> int:
        """Return how long until everything is left again."""
        return -(-self._drained(now_ns) // self.per_minute)

    def _drained(self, now_ns: int) -> int:
        return max(0, self._filled - (now_ns - self._at_ns) * self.per_minute)


class KeyMeters:
    """All limits of one key."""

    def __init__(self, limits: Limits, now_ns: int) -> None:
        told: list[tuple[Counted, int | None]] = [
            ("requests", limits.requests_per_minute),
            ("tokens", limits.tokens_per_minute),
            ("input-tokens", limits.input_tokens_per_minute),
            ("output-tokens", limits.output_tokens_per_minute),
        ]
        self.meters = [Meter(name, limit, limits.burst_s, now_ns) for name, limit in told if limit is not None]
        self.concurrency = limits.concurrency
        self.open = 0
        self.max_open = 0

    def grant(self, input_tokens: int, output_tokens: int, now_ns: int) -> Refusal | None:
        """Count a request on every meter and as open, or on none and say why not."""
        if self.concurrency is not None and self.open >= self.concurrency:
            return Refusal("concurrency", self.concurrency, self.open, 1, 0)
        amounts = {
            "requests": 1,
            "tokens": input_tokens + output_tokens,
            "input-tokens": input_tokens,
            "output-tokens": output_tokens,
        }
        refusal = None
        for meter in self.meters:
            amount = amounts[meter.name]
            wait = meter.wait_ns(amount, now_ns)
            if wait == 0 or (refusal and (refusal.wait_ns is None or (wait is not None and wait <= refusal.wait_ns))):
                continue
            used = meter.per_minute - meter.left(now_ns)
            refusal = Refusal(meter.name, meter.per_minute, used, amount, wait)
        if refusal:
            return refusal
        for meter in self.meters:
            meter.pour(amounts[meter.name], now_ns)
        self.open += 1
        self.max_open = max(self.max_open, self.open)
        return None

    def end(self) -> None:
        """Count a granted request as no longer open."""
        self.open -= 1

    def headers(self, now_ns: int) -> list[tuple[bytes, bytes]]:
        """Return the rate-limit headers as OpenAI sends them."""
        found = []
        for meter in self.meters:
            name = meter.name.encode()
            found += [
                (b"x-ratelimit-limit-" + name, b"%d" % meter.per_minute),
                (b"x-ratelimit-remaining-" + name, b"%d" % max(0, meter.left(now_ns))),
                (b"x-ratelimit-reset-" + name, duration(meter.full_in_ns(now_ns))),
            ]
        return found


def duration(length_ns: int) -> bytes:
    """Return a duration as OpenAI writes it: `20ms`, `1.5s`, `6m0s`; rounded up to milliseconds."""
    milliseconds = -(-length_ns // 1_000_000)
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{prefix}{seconds}s".encode()
