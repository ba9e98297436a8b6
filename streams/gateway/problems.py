"""What a caller gets when a request cannot be served: one form for all, RFC 9457 problem details.

The one place that knows which error of the package is which HTTP status.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import orjson
from starlette.responses import Response

from streams.agents.agent import BadInput
from streams.errors import (
    Backpressure,
    BrokerError,
    Conflict,
    InvalidInput,
    PayloadTooLarge,
    RecordTooLarge,
    ResultTimeout,
    StreamsError,
    TopicError,
    UnknownInvocation,
    UnknownName,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AWAY_S = 1


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


_STATUS: Mapping[type[StreamsError], _Row] = {
    PayloadTooLarge: _Row(413),
    RecordTooLarge: _Row(413),
    InvalidInput: _Row(422),
    UnknownName: _Row(422),
    UnknownInvocation: _Row(404),
    Conflict: _Row(409),
    Backpressure: _Row(429),
    ResultTimeout: _Row(503, {"Retry-After": str(RETRY_AWAY_S)}),
    TopicError: _Row(500),
    BrokerError: _Row(503, {"Retry-After": str(RETRY_AWAY_S)}),
}
"""By class, the first that fits; what is not here is 500."""


class Problem(Exception):
    """An answer that is no success.

    Attributes:
        kind: What is wrong, in one word: the class of the error where there is one.
        field: The part of the request that it is about, dotted; empty for the whole.
    """

    def __init__(
        self, status: int, kind: str, detail: str, *, field: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.field = field
        self.headers = dict(headers or {})

    def document(self) -> dict[str, object]:
        """Return it as RFC 9457 has it."""
        document: dict[str, object] = {
            "type": f"urn:agent-streams:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
        }
        if self.field:
            document["field"] = self.field
        return document

    def response(self) -> Response:
        """Return it as an HTTP response."""
        return Response(orjson.dumps(self.document()), self.status, self.headers, media_type=MEDIA_TYPE)


def problem_of(error: StreamsError) -> Problem:
    """Return the answer that an error of this package makes."""
    row = next((row for kind, row in _STATUS.items() if isinstance(error, kind)), None)
    if row is None or row.status >= 500:
        log.warning("a request failed: %s: %s", type(error).__name__, error)
    if row is None:
        return Problem(500, type(error).__name__, "the gateway could not do that; its log says why")
    headers = dict(row.headers)
    if isinstance(error, Backpressure):
        headers |= retry_after(error.retry_after_s)
        headers["RateLimit"] = f'"lane";r=0;t={headers["Retry-After"]}'
    kind = InvalidInput if isinstance(error, BadInput) else type(error)
    return Problem(row.status, kind.__name__, str(error), field=_field(error), headers=headers)


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header that tells a caller when to come back: whole seconds, at least one (RFC 9110)."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _field(error: StreamsError) -> str:
    if isinstance(error, UnknownName):
        return "agent"
    if isinstance(error, BadInput):
        return f"input.{error.field}" if error.field else "input"
    return "input" if isinstance(error, PayloadTooLarge) else ""
