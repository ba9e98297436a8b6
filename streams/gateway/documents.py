"""What the gateway shows of invocations and results: plain JSON values, the same wherever they appear."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
from starlette.responses import Response

from streams.client.outcome import InvocationResult
from streams.errors import Conflict
from streams.gateway.problems import Problem, retry_after
from streams.records.ids import split_invocation_id

MEDIA_TYPE = "application/json"
ROOT = "/v1/invocations"


def location(invocation: str) -> str:
    """Return the path at which an invocation is asked for."""
    return f"{ROOT}/{quote(invocation, safe='/')}"


def as_json(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a JSON document."""
    return Response(orjson.dumps(document), status, headers, media_type=MEDIA_TYPE)


def accepted(invocation: str) -> Response:
    """Return 202: it is durable, and its result will be found at the location."""
    path = location(invocation)
    agent, key, idempotency_key = split_invocation_id(invocation)
    document = {
        "invocation": invocation, "phase": "accepted", "location": path, "agent": agent, "key": key,
        "idempotency_key": idempotency_key,
    }  # fmt: skip
    return as_json(document, 202, {"Location": path})


def unread(invocation: str) -> Response:
    """Return 200 for one that is accepted and stands in its shard's backlog."""
    return as_json({"invocation": invocation, "phase": "accepted", "waits_for": [{"kind": "shard"}]})


def finished(result: InvocationResult[Any]) -> Response:
    """Return 200 with a result, also of an invocation that failed: the request for it succeeded.

    Raises:
        Problem: 409 when the ID was used with another input, 429 when its agent instance could not take it.
    """
    if result.status == "deferred":
        raise Problem(429, "Deferred", result.error_message, headers=retry_after(result.retry_after_s))
    if result.error_type == Conflict.__name__:
        raise Problem(409, result.error_type, result.error_message, field="idempotency_key")
    return as_json(result_document(result), headers={"Location": location(result.invocation_id)})


def result_document(result: InvocationResult[Any]) -> dict[str, object]:
    """Return a result as a JSON document."""
    record = result.record
    document: dict[str, object] = {
        "invocation": result.invocation_id,
        "phase": "finished",
        "status": result.status,
        "degraded": result.degraded,
        "repeated": result.repeated,
        "value": orjson.Fragment(record.value) if record.value else None,
        "steps": result.steps,
        "usage": {"input_tokens": record.input_tokens, "output_tokens": record.output_tokens, "cost": record.cost},
        "version": record.version,
        "submitted_at_ms": record.submitted_at_ms,
        "started_at_ms": record.started_at_ms,
        "finished_at_ms": record.finished_at_ms,
    }
    if result.error_type:
        document["error"] = {
            "type": result.error_type, "message": result.error_message, "field": result.error_field or None
        }  # fmt: skip
    return document
