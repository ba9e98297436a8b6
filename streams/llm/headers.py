"""Reads what providers say about their limits in response headers. A header that cannot be read is as good as absent.

OpenAI: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, the reset a duration such as `6m0s`. Anthropic:
`anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`, the reset an RFC 3339 date,
remaining tokens rounded to the nearest thousand. Both: `retry-after`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

from streams.llm.limits import Quantity

ANTHROPIC_ROUNDING = 500
"""Half of the thousand to which Anthropic rounds remaining tokens: the truth may be that much higher."""

_DURATION = re.compile(r"(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_KINDS: tuple[tuple[Quantity, str], ...] = (
    ("requests", "requests"),
    ("tokens", "tokens"),
    ("input_tokens", "input-tokens"),
    ("output_tokens", "output-tokens"),
)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a provider said about one quantity.

    Attributes:
        limit: Amount a minute.
        remaining: The most that may be left in the provider's bucket when it admitted the request.
        reset_s: Seconds until its bucket is full again.
    """

    quantity: Quantity
    limit: float | None
    remaining: float | None
    reset_s: float | None


@dataclass(frozen=True, slots=True)
class RateHeaders:
    """Everything about limits in the headers of one response.

    Attributes:
        retry_after_s: Seconds to stay away, when the provider said so.
    """

    observations: tuple[Observation, ...] = ()
    retry_after_s: float | None = None


NO_HEADERS = RateHeaders()


def read_headers(headers: Mapping[str, str], wall_s: float) -> RateHeaders:
    """Return what *headers* say about limits.

    Args:
        headers: Response headers, with names in lower case or a mapping that does not mind.
        wall_s: Seconds since the epoch, for headers that carry dates.
    """
    seen: list[Observation] = []
    for quantity, kind in _KINDS:
        openai = _observe(
            quantity,
            headers.get(f"x-ratelimit-limit-{kind}"),
            headers.get(f"x-ratelimit-remaining-{kind}"),
            parse_duration(headers.get(f"x-ratelimit-reset-{kind}")),
            rounding=0,
        )
        prefix = f"anthropic-ratelimit-{kind}"
        anthropic = _observe(
            quantity,
            headers.get(f"{prefix}-limit"),
            headers.get(f"{prefix}-remaining"),
            _until(headers.get(f"{prefix}-reset"), wall_s),
            rounding=0 if quantity == "requests" else ANTHROPIC_ROUNDING,
        )
        seen += [found for found in (openai, anthropic) if found is not None]
    return RateHeaders(tuple(seen), _retry_after(headers, wall_s))


def parse_duration(text: str | None) -> float | None:
    """Return seconds for a duration such as `1s`, `6m0s`, `20ms` or `1h2m3.5s`; None for anything else."""
    if text is None or not _DURATION.fullmatch(text.strip()):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))


def _observe(
    quantity: Quantity, limit: str | None, remaining: str | None, reset_s: float | None, *, rounding: int
) -> Observation | None:
    limit_value, remaining_value = _number(limit), _number(remaining)
    if limit_value is None and remaining_value is None:
        return None
    return Observation(
        quantity,
        limit_value if limit_value else None,
        None if remaining_value is None else remaining_value + rounding,
        reset_s,
    )


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value >= 0 and math.isfinite(value) else None


def _until(text: str | None, wall_s: float) -> float | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return max(0.0, at.timestamp() - wall_s) if at.tzinfo is not None else None


def _retry_after(headers: Mapping[str, str], wall_s: float) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall_s)
    except ValueError:
        return None
