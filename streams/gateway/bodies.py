"""Reading what a request carries: bounded in bytes and time while it arrives, then checked field by field."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from streams.agents.signature import explain, field_of
from streams.errors import PayloadTooLarge
from streams.gateway.problems import Problem
from streams.records.invocations import Priority

ENVELOPE_BYTES = 65_536
"""What a body may have beside its payload."""

LIMIT_SETTING = "max_payload_bytes"


class InvocationBody(BaseModel):
    """The body of `POST /v1/invocations`.

    Attributes:
        agent: Name of the agent.
        input: Its input, any JSON.
        key: The agent instance; only checked against the one that the input gives.
        idempotency_key: The same key with the same input is the same invocation; also as header `Idempotency-Key`.
        tenant: On whose behalf, where no token says it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: str = Field(min_length=1, max_length=256)
    input: Any
    key: str | None = None
    idempotency_key: str | None = Field(None, min_length=1, max_length=256)
    tenant: str | None = Field(None, max_length=256)
    priority: Priority = "normal"


def parse_invocation(data: bytes, header_key: str | None) -> InvocationBody:
    """Return the body of a submission.

    Args:
        header_key: The header `Idempotency-Key`, where there is one.

    Raises:
        Problem: 400 for what is no JSON, 422 with the field that is wrong.
    """
    try:
        body = InvocationBody.model_validate(parse_json(data))
    except ValidationError as error:
        raise invalid(explain(error), field_of(error)) from None
    if header_key is None:
        return body
    if not 1 <= len(header_key) <= 256:
        raise invalid(
            f"header Idempotency-Key of {len(header_key)} characters is not between 1 and 256; use a digest of it",
            "Idempotency-Key",
        )
    if body.idempotency_key not in (None, header_key):
        raise invalid(
            f"idempotency_key {body.idempotency_key!r} and header Idempotency-Key {header_key!r} differ; send one",
            "idempotency_key",
        )
    return body.model_copy(update={"idempotency_key": header_key})


def parse_json(data: bytes) -> Any:
    """Return the value that JSON bytes stand for.

    Raises:
        Problem: 400, with the place.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, "MalformedJson", f"the body is not JSON: {error}") from None


async def read_body(request: Request, max_payload_bytes: int, timeout_s: float) -> bytes:
    """Return the body of a request; what is too large is given up as soon as that is known.

    Raises:
        PayloadTooLarge: It exceeds the payload's bound and 64 KB for what is around it.
        Problem: 415 when it is not sent as JSON, 408 when it takes too long.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        # Also what keeps a page in some browser from posting here: that type needs a preflight, which is not granted.
        raise Problem(415, "UnsupportedMediaType", f"content-type is {content_type!r}; send application/json")
    limit = max_payload_bytes + ENVELOPE_BYTES
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise PayloadTooLarge("request body", int(announced), limit, LIMIT_SETTING)
    data = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise PayloadTooLarge("request body", len(data), limit, LIMIT_SETTING)
    except TimeoutError:
        raise Problem(408, "RequestTimeout", f"the body did not arrive within {timeout_s:g} s; send it again") from None
    except ClientDisconnect:
        raise Problem(400, "Disconnected", "the connection ended within the body") from None
    return bytes(data)


def parse_wait(text: str | None, most_s: float) -> float:
    """Return the seconds of `?wait=`, 0 where it is absent.

    Raises:
        Problem: 422 when it is no number between 0 and *most_s*.
    """
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most_s:
        raise invalid(f"wait={text!r} is not a number of seconds between 0 and {most_s:g} (max_wait_s)", "wait")
    return seconds


def invalid(detail: str, field: str) -> Problem:
    """Return the answer to a value that does not fit."""
    return Problem(422, "InvalidInput", detail, field=field)
