"""The OpenAPI document of the gateway: made from the app, so that each agent's input is in it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from streams.app import App
from streams.gateway.documents import ROOT
from streams.gateway.settings import GatewaySettings

DOCUMENT = "/v1/openapi.json"
ONE = f"{ROOT}/{{agent}}/{{key}}/{{idempotency_key}}"
PROBLEM = "application/problem+json"
PROBLEMS = {
    400: "The body is not JSON, or the connection ended within it.",
    401: "The token is missing, unknown or expired.",
    403: "The token is another tenant's.",
    404: "No shard knows it, or it is another tenant's.",
    405: "The path has other methods.",
    408: "The body did not arrive in time.",
    409: "The ID was used before with another input.",
    413: "A payload over its bound.",
    415: "The body is not sent as application/json.",
    422: "Something does not fit; `field` says what.",
    429: "The lane, the agent instance or the tenant has no room; come back after Retry-After.",
    503: "Kafka or a shard does not answer; come back after Retry-After.",
}


def describe(app: App, settings: GatewaySettings) -> dict[str, Any]:
    """Return the document."""
    schemas: dict[str, Any] = dict(_SCHEMAS)
    inputs = [_of_agent(app, name, schemas) for name in app.agents]
    schemas["Submission"] = {"oneOf": inputs} if inputs else {"not": {}}
    secured = bool(settings.tokens)
    wait = {
        "name": "wait", "in": "query", "description": "Seconds to wait for the result.",
        "schema": {"type": "number", "minimum": 0, "maximum": settings.max_wait_s},
    }  # fmt: skip
    key = {
        "name": "Idempotency-Key", "in": "header", "description": "The same key and input are the same invocation.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9._:-]+$"},
    }  # fmt: skip
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"{app.name}: agents",
            "version": version("agent-streams"),
            "description": "Submit invocations to agents, ask for their results, signal and cancel them.",
        },
        "paths": {
            ROOT: {
                "post": {
                    "operationId": "submit",
                    "summary": "Submit an invocation; it is durable once this is answered.",
                    "parameters": [wait, key],
                    "requestBody": _body("#/components/schemas/Submission"),
                    "responses": {
                        "200": _answer("Its result, with ?wait=.", "Result", headers=_LOCATED),
                        "202": {**_answer("Accepted.", "Accepted", headers=_LOCATED), "links": _LINKS},
                        **_problems(400, 401, 403, 408, 409, 413, 415, 422, 429, 503),
                    },
                }
            },
            ONE: {
                "parameters": _PARTS,
                "get": {
                    "operationId": "get",
                    "summary": "Its result, or where it stands.",
                    "parameters": [wait],
                    "responses": {
                        "200": _answer("Its result, or where it stands.", "Standing"),
                        **_problems(401, 404, 409, 422, 429, 503),
                    },
                },
                "delete": {
                    "operationId": "cancel",
                    "summary": "Ask it to end; its handler may clean up.",
                    "responses": {"202": _answer("Asked.", "Accepted"), **_problems(401, 404, 503)},
                },
            },
            f"{ONE}/signals/{{name}}": {
                "parameters": [*_PARTS, _part("name", "Name of the signal.")],
                "post": {
                    "operationId": "signal",
                    "summary": "Give a value to the handler that waits for it, now or later.",
                    "parameters": [key],
                    "requestBody": _body("#/components/schemas/Anything"),
                    "responses": {
                        "202": _answer("Told.", "Accepted"), **_problems(400, 401, 404, 408, 413, 415, 422, 503),
                    },
                },
            },
            f"{ONE}/events": {
                "parameters": _PARTS,
                "get": {
                    "operationId": "events",
                    "summary": "Server-sent events: `status`, `tokens` and at last `result`.",
                    "responses": {
                        "200": {
                            "description": "The stream.",
                            "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}},
                        },
                        **_problems(401, 404, 503),
                    },
                },
            },
        },
        "components": {"schemas": schemas},
    }  # fmt: skip
    if secured:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _of_agent(app: App, name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    agent = app.latest(name)
    prefix = f"{name}."
    schema = agent.input.json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
    for model, definition in schema.pop("$defs", {}).items():
        schemas[f"{prefix}{model}"] = definition
    schemas[f"{prefix}input"] = schema
    return {
        "type": "object",
        "description": agent.description,
        "additionalProperties": False,
        "required": ["agent", "input"],
        "properties": {
            "agent": {"const": name},
            "input": {"$ref": f"#/components/schemas/{prefix}input"},
            "key": {"type": ["string", "null"], "description": "Only checked against the one that the input gives."},
            "idempotency_key": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
            "tenant": {"type": ["string", "null"], "maxLength": 256},
            "priority": {"enum": ["high", "normal", "low"], "default": "normal"},
        },
    }


def _body(reference: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": {"$ref": reference}}}}


def _answer(description: str, schema: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}


def _problems(*statuses: int) -> dict[str, Any]:
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    come_back = {"Retry-After": {"required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
    return {
        str(status): {
            "description": PROBLEMS[status],
            "content": content,
            **({"headers": come_back} if status in (429, 503) else {}),
        }
        for status in statuses
    }


def _part(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9._:-]+$"}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


_PARTS = [
    _part("agent", "Name of the agent."),
    _part("key", "Which instance of it."),
    _part("idempotency_key", "Which of its invocations."),
]
_LINKS = {
    operation: {
        "operationId": operation,
        "parameters": {part: f"$response.body#/{part}" for part in ("agent", "key", "idempotency_key")},
    }
    for operation in ("get", "cancel", "signal", "events")
}
_LOCATED = {"Location": {"required": True, "schema": {"type": "string"}}}
_TEXT = {"type": "string"}
_SCHEMAS: dict[str, Any] = {
    "Anything": {},
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": _TEXT, "title": _TEXT, "detail": _TEXT, "field": _TEXT, "status": {"type": "integer"},
        },
    },
    "Accepted": {
        "type": "object",
        "required": ["invocation", "phase", "location", "agent", "key", "idempotency_key"],
        "properties": {
            "invocation": _TEXT, "phase": {"const": "accepted"}, "location": _TEXT, "agent": _TEXT, "key": _TEXT,
            "idempotency_key": _TEXT,
        },
    },
    "Result": {
        "type": "object",
        "required": ["invocation", "phase", "status", "degraded", "repeated", "value", "steps", "usage"],
        "properties": {
            "invocation": _TEXT,
            "phase": {"const": "finished"},
            "status": {"enum": ["succeeded", "failed", "cancelled"]},
            "degraded": {"type": "boolean"},
            "repeated": {"type": "boolean"},
            "value": {},
            "steps": {"type": "integer"},
            "usage": {"type": "object"},
            "error": {"type": "object", "required": ["type", "message"]},
        },
    },
    "Live": {
        "type": "object",
        "required": ["invocation", "phase", "waits_for"],
        "properties": {
            "invocation": _TEXT,
            "phase": {"enum": ["accepted", "queued", "running", "parked"]},
            "waits_for": {"type": "array", "items": {"type": "object"}},
        },
    },
    "Event": {
        "type": "object",
        "description": "`data` is JSON: where it stands, a piece of text with step and index, the result, a problem.",
        "properties": {"event": {"enum": ["status", "tokens", "result", "problem"]}, "data": _TEXT},
    },
    "Standing": {"anyOf": [{"$ref": "#/components/schemas/Result"}, {"$ref": "#/components/schemas/Live"}]},
}  # fmt: skip
