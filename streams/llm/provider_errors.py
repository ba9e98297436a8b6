"""How a call to a model can fail, as the dispatcher must tell it apart. Private to `streams.llm`.

ProviderError
├── Throttled       429: the key is over its limit; not the breaker's business
├── Refused         400 and its kin: the request is wrong; no retry, told to the agent
├── Unauthorized    401, 403, no quota left: the key is of no use
└── Unavailable     5xx, timeout, no connection, an answer that cannot be read; counts for the breaker
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from streams.llm.headers import NO_HEADERS, RateHeaders, read_headers

Kind = Literal["status", "timeout", "connection", "malformed"]

MESSAGE_CHARACTERS = 2000
SHORTEST_KEY = 8
"""Characters of the shortest text that is taken for a secret."""


class ProviderError(Exception):
    """Base of what a provider's `complete` raises.

    Attributes:
        headers: What the provider said about its limits, if it answered at all.
    """

    def __init__(self, message: str, headers: RateHeaders = NO_HEADERS) -> None:
        super().__init__(message)
        self.headers = headers


class Throttled(ProviderError):
    """The key is over its limit.

    Attributes:
        retry_after_s: Seconds to stay away; None if the provider did not say.
    """

    @property
    def retry_after_s(self) -> float | None:
        """Seconds to stay away; None if the provider did not say."""
        return self.headers.retry_after_s


class Refused(ProviderError):
    """The provider does not take this request, whoever sends it and when."""

    def __init__(self, status: int, message: str, headers: RateHeaders = NO_HEADERS) -> None:
        super().__init__(message, headers)
        self.status = status


class Unauthorized(ProviderError):
    """The key is unknown, forbidden or without quota."""


class Unavailable(ProviderError):
    """The provider cannot answer now, or nobody knows whether it did: the request may have been counted there."""

    def __init__(self, kind: Kind, message: str, headers: RateHeaders = NO_HEADERS) -> None:
        super().__init__(message, headers)
        self.kind = kind


def classify(
    status: int, message: str, headers: Mapping[str, str], *, key: str, wall_s: float, code: str | None = None
) -> ProviderError:
    """Return the error that an HTTP answer stands for.

    Args:
        status: Its status, 400 or above.
        message: The provider's words. The key is taken out should it be quoted there.
        headers: Its headers.
        key: The API key that was used.
        wall_s: Seconds since the epoch.
        code: The provider's error code. `insufficient_quota` is a 429 that no waiting ends.
    """
    said = redact(message, key)
    told = read_headers(headers, wall_s)
    if status in (401, 403) or code == "insufficient_quota":
        return Unauthorized(said, told)
    if status == 429:
        return Throttled(said, told)
    if status in (408, 409) or status >= 500:
        return Unavailable("timeout" if status == 408 else "status", f"{status}: {said}", told)
    return Refused(status, said, told)


def redact(message: str, key: str) -> str:
    """Return *message* without the key, at a length that fits a record; words as short as `none` are no keys."""
    return (message.replace(key, "***") if len(key) >= SHORTEST_KEY else message)[:MESSAGE_CHARACTERS]
