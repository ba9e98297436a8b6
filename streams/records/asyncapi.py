"""An AsyncAPI 3.0 description of the topics that others than the product itself write or read.

Derived from the catalogue and the records, for people and generators that meet the topics without this package. It is
written as a client sees it: a client sends invocations and receives results.
"""

from __future__ import annotations

from typing import Any, get_args

from streams.records import control, invocations, signals, state, steps
from streams.records.avro import file_name, schema_of
from streams.records.topics import KINDS, Catalogue, TopicKind

MESSAGES: dict[str, tuple[type[Any], ...]] = {
    "invocations": (invocations.Invocation,),
    "signals": (
        signals.Signal,
        signals.Cancel,
        signals.Order,
        signals.StatusQuery,
        signals.StateRead,
        signals.StateWrite,
        signals.SharedRequest,
    ),
    "tokens": (steps.TokenChunk,),
    "answers": (signals.Answer,),
    "results": (invocations.Result,),
    "state-deltas": (state.StateDelta,),
    "breakers": (control.BreakerState,),
    "outcomes": (control.OutcomeDigest, signals.Order),
    "backpressure": (control.BackpressureSignal,),
    "limits": (control.Limit,),
    "usage": (control.Usage,),
    "pools": (control.PoolReport,),
    "dead-letters": (control.DeadLetter,),
}
"""Records on each public topic."""

AVRO = "application/vnd.apache.avro+json;version=1.9.0"
SINGLE_OBJECT = (
    "Avro single-object encoding: c3 01, the 8 bytes of the schema's CRC-64-AVRO fingerprint (little endian), the body."
)

MAX_TIMEOUT_S = 100 * 366 * 86_400
MAX_TIME_MS = 2**53
"""What times of a JSON invocation may be at most, so that they fit the record."""

_JSON_INVOCATION: dict[str, Any] = {
    "type": "object",
    "required": ["agent", "input"],
    "additionalProperties": False,
    "properties": {
        "agent": {"type": "string", "description": "The agent's name."},
        "input": {"description": "What the agent takes: any JSON that fits its input type."},
        "key": {"type": "string", "description": "The agent's key; by default from the record key, agent/key."},
        "idempotency_key": {"type": "string", "description": "By default the record's place in the log."},
        "tenant": {"type": "string"},
        "priority": {"type": "string", "enum": ["high", "normal", "low"], "default": "normal"},
        "timeout_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MAX_TIMEOUT_S,
            "default": 3600,
            "description": "Until it is failed.",
        },
        "not_before_ms": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_TIME_MS,
            "description": "Milliseconds since the epoch; 0 starts at once.",
        },
    },
}


def describe(version: str) -> dict[str, Any]:
    """Return the description.

    Args:
        version: Of the package.
    """
    public = [kind for kind in KINDS.values() if is_public(kind)]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "agent-streams",
            "version": version,
            "description": (
                "Topics of a namespace, as a client sees them. Consumers must read committed "
                "(isolation.level=read_committed). Records are partitioned by murmur2(key), the default of the Java "
                "client."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "avro/binary",
        "channels": {kind.name: _channel(kind) for kind in public},
        "operations": {name: body for kind in public for name, body in _operations(kind)},
        "components": {
            "messages": {name: body for kind in public for name, body in _messages(kind).items()},
            "parameters": {"namespace": {"description": "The app's name, unless its settings say otherwise."}},
        },
    }


def is_public(kind: TopicKind) -> bool:
    """Tell whether others than the product's own roles write or read a topic."""
    outside = {"clients", "operators"}
    return bool(outside & {*kind.written_by, *kind.read_by})


def _channel(kind: TopicKind) -> dict[str, Any]:
    plan = next(plan for plan in Catalogue("namespace").topics() if plan.kind is kind)
    config = dict(plan.config)
    topic: dict[str, Any] = {"cleanup.policy": config["cleanup.policy"].split(",")}
    topic |= {name: int(config[name]) for name in ("retention.ms", "max.message.bytes") if name in config}
    lanes = " Lanes have a topic of their own, with the lane's name after a dot." if kind.lanes else ""
    return {
        "address": f"{{namespace}}.{kind.name}",
        "description": f"Written by {_listed(kind.written_by)}, read by {_listed(kind.read_by)}.{lanes}",
        "parameters": {"namespace": {"$ref": "#/components/parameters/namespace"}},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _messages(kind)},
        "bindings": {"kafka": {"topicConfiguration": topic, "bindingVersion": "0.5.0"}},
    }


def _operations(kind: TopicKind) -> list[tuple[str, dict[str, Any]]]:
    channel = {"$ref": f"#/channels/{kind.name}"}
    name = "".join(word.capitalize() for word in kind.name.split("-"))
    outside = {"clients", "operators"}
    actions = (("send", kind.written_by), ("receive", kind.read_by))
    return [
        (f"{action}{name}", {"action": action, "channel": channel, "summary": f"For {_listed(who)}."})
        for action, roles in actions
        if (who := tuple(role for role in roles if role in outside))
    ]


_SIGNAL_HEADERS: dict[str, dict[str, Any]] = {
    "level": {"type": "string", "enum": list(get_args(control.Level))},
    "retry_after_s": {"type": "string", "description": "Decimal seconds from the record's timestamp on."},
    "ttl_s": {"type": "string", "description": "Seconds from the record's timestamp on for which it holds."},
}
"""What a producer needs of a backpressure signal, so that it can follow them without Avro."""


def _messages(kind: TopicKind) -> dict[str, Any]:
    messages = {record.__name__: _avro_message(kind, record) for record in MESSAGES[kind.name]}
    if kind.name == "invocations":
        messages["InvocationJson"] = _json_message(
            kind, "An invocation for who only has a Kafka client.", _JSON_INVOCATION
        )
    if kind.name == "results":
        summary = "A result where the setting results_as is json."
        messages["ResultJson"] = _json_message(kind, summary, _json_result())
    return messages


def _avro_message(kind: TopicKind, record: type[Any]) -> dict[str, Any]:
    return {
        "name": record.__name__,
        "summary": schema_of(record)["doc"],
        "description": SINGLE_OBJECT,
        "contentType": "avro/binary",
        "headers": _headers(**(_SIGNAL_HEADERS if record is control.BackpressureSignal else {})),
        "payload": {"schemaFormat": AVRO, "schema": {"$ref": f"./{file_name(record)}"}},
        "bindings": _key(kind),
    }


def _json_message(kind: TopicKind, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    headers = _headers()
    headers["properties"]["content-type"] = {"type": "string", "const": "application/json"}
    headers["required"] = ["content-type"]
    return {
        "summary": summary,
        "contentType": "application/json",
        "headers": headers,
        "payload": schema,
        "bindings": _key(kind),
    }


def _headers(**more: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "ce_type": {"type": "string", "description": "CloudEvents type: streams. and the record's."},
            "traceparent": {"type": "string", "description": "W3C trace context."},
            **more,
        },
    }


def _key(kind: TopicKind) -> dict[str, Any]:
    return {"kafka": {"key": {"type": "string", "description": kind.key}, "bindingVersion": "0.5.0"}}


def _json_result() -> dict[str, Any]:
    types = {"string": "string", "long": "integer", "double": "number", "boolean": "boolean"}
    properties: dict[str, Any] = {"id": {"type": "string", "description": "The invocation ID."}}
    for field in schema_of(invocations.Result)["fields"]:
        properties[field["name"]] = {"type": types[field["type"]]} if str(field["type"]) in types else {}
    properties["value"] = {"description": "What the handler returned; null when it did not succeed."}
    properties["input_digest"] = {"type": "string", "description": "Hexadecimal."}
    return {"type": "object", "required": list(properties), "properties": properties}


def _listed(roles: tuple[str, ...]) -> str:
    return " and ".join((", ".join(roles[:-1]), roles[-1])) if len(roles) > 1 else "".join(roles) or "nobody"
