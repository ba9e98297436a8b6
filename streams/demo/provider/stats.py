"""What the mock provider saw: the truth about what a client really did."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

REQUEST_IDS = 500_000
"""Request IDs remembered; beyond it new ones are only counted."""


@dataclass(slots=True)
class KeyStats:
    """Counts for one API key."""

    by_status: Counter[int] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    max_concurrency: int = 0


@dataclass(slots=True)
class Stats:
    """Counts over all keys. Status 0 is a request that was never answered (a hang)."""

    by_key: defaultdict[str, KeyStats] = field(default_factory=lambda: defaultdict(KeyStats))
    refused_by: Counter[str] = field(default_factory=Counter)
    request_ids: Counter[str] = field(default_factory=Counter)
    unremembered_ids: int = 0
    streamed: int = 0
    open: int = 0
    max_concurrency: int = 0
    first_ns: int | None = None
    last_ns: int | None = None

    def granted(self, key: str, input_tokens: int, output_tokens: int, open_on_key: int, now_ns: int) -> None:
        """A request passed the limits."""
        one = self.by_key[key]
        one.input_tokens += input_tokens
        one.output_tokens += output_tokens
        one.max_concurrency = max(one.max_concurrency, open_on_key)
        self.open += 1
        self.max_concurrency = max(self.max_concurrency, self.open)
        self.first_ns = now_ns if self.first_ns is None else self.first_ns
        self.last_ns = now_ns

    def asked(self, request_id: str) -> None:
        """A request carried this `x-client-request-id`."""
        if request_id in self.request_ids or len(self.request_ids) < REQUEST_IDS:
            self.request_ids[request_id] += 1
        else:
            self.unremembered_ids += 1

    def as_json(self, *, with_ids: bool) -> dict[str, object]:
        """Return everything as JSON-able values.

        Args:
            with_ids: Every request ID with its count, not only the repeated ones.
        """
        by_status = sum((one.by_status for one in self.by_key.values()), Counter[int]())
        answer: dict[str, object] = {
            "requests": by_status.total(),
            "by_status": {str(status): count for status, count in sorted(by_status.items())},
            "rejected_429": by_status[429],
            "refused_by": dict(self.refused_by),
            "input_tokens": sum(one.input_tokens for one in self.by_key.values()),
            "output_tokens": sum(one.output_tokens for one in self.by_key.values()),
            "open": self.open,
            "max_concurrency": self.max_concurrency,
            "streamed": self.streamed,
            "granted_for_s": 0.0 if self.first_ns is None else ((self.last_ns or 0) - self.first_ns) / 1e9,
            "by_key": {
                key: {
                    "by_status": {str(status): count for status, count in sorted(one.by_status.items())},
                    "input_tokens": one.input_tokens,
                    "output_tokens": one.output_tokens,
                    "max_concurrency": one.max_concurrency,
                }
                for key, one in self.by_key.items()
            },
            "distinct_request_ids": len(self.request_ids) + self.unremembered_ids,
            "repeated_request_ids": {name: count for name, count in self.request_ids.items() if count > 1},
        }
        if with_ids:
            answer["request_ids"] = dict(self.request_ids)
        return answer
