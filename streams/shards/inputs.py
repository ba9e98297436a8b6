"""From records as they were read to events for the engine, and to dead letters for what cannot be one."""

from __future__ import annotations

from typing import Any

import orjson

from streams.broker.port import LogRecord
from streams.errors import CodecError, InvalidInput, UnknownSchema
from streams.records import decode, encode, headers
from streams.records.asyncapi import MAX_TIME_MS, MAX_TIMEOUT_S, MESSAGES
from streams.records.ids import invocation_id
from streams.records.invocations import Invocation
from streams.records.signals import SharedRequest
from streams.shards.effects import Event

PUBLIC = frozenset({"invocations", "signals"})
"""Kinds of topics that anyone may write: what cannot be decoded there is set aside, not waited for."""

DEFAULT_TIMEOUT_S = 3_600.0
_JSON_FIELDS = frozenset(
    ("agent", "key", "idempotency_key", "input", "tenant", "priority", "timeout_s", "not_before_ms")
)


def to_event(kind: str, record: LogRecord) -> Event:
    """Return the event that a record of an input topic is.

    Raises:
        UnknownSchema: On a topic that only the product writes: a rolling deploy; wait for the version that knows it.
        CodecError: Not a record at all, or none that belongs on a topic that anyone may write.
        InvalidInput: A JSON invocation that lacks something, or has too much.
    """
    if record.value is None:
        raise CodecError("the record has no value")
    if kind not in PUBLIC:
        return Event(kind, decode(record.value))
    if kind == "invocations" and headers.is_json(record.headers):
        invocation = invocation_from_json(record)
        return Event(kind, invocation, encode(invocation))
    found = decode(record.value)
    if type(found) not in MESSAGES[kind]:
        expected = ", ".join(message.__name__ for message in MESSAGES[kind])
        raise CodecError(f"the record is a {type(found).__name__}; {kind} takes {expected}")
    if kind == "signals":
        if isinstance(found, SharedRequest) and (found.origin or not found.client):
            raise InvalidInput(f"a request of a client names itself and no origin, not {found.origin!r}")
        return Event(kind, found)
    invocation_id(found.agent, found.key, found.idempotency_key)
    if found.parent:
        raise InvalidInput(f"an invocation of a client has no parent, but this one names {found.parent!r}")
    return Event(kind, found, record.value)


def invocation_from_json(record: LogRecord) -> Invocation:
    """Return the invocation in a JSON record, for people who only have a Kafka client.

    The value is an object with `agent` and `input`, and optionally `key` (else from the record key, `agent/key`),
    `idempotency_key` (else derived from the record's place in the log), `tenant`, `priority`, `timeout_s` and
    `not_before_ms`.

    Raises:
        InvalidInput: It is not such an object; names the field.
    """
    assert record.value is not None
    try:
        body: Any = orjson.loads(record.value)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the value says it is JSON but is not: {error}") from None
    if not isinstance(body, dict) or "agent" not in body or "input" not in body:
        raise InvalidInput('a JSON invocation is an object such as {"agent": "dispute", "input": {...}}')
    if unknown := body.keys() - _JSON_FIELDS:
        raise InvalidInput(f"unknown field {min(unknown)!r}; a JSON invocation has {', '.join(sorted(_JSON_FIELDS))}")
    agent, key = str(body["agent"]), body.get("key") or _key_part(record.key)
    idempotency_key = str(body.get("idempotency_key") or f"at-{record.partition}-{record.offset}")
    invocation_id(agent, str(key), idempotency_key)
    timeout_s = body.get("timeout_s", DEFAULT_TIMEOUT_S)
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise InvalidInput(f"timeout_s {timeout_s!r} is not a number of seconds above 0 and up to {MAX_TIMEOUT_S}")
    not_before_ms = body.get("not_before_ms", 0)
    if not isinstance(not_before_ms, int) or not 0 <= not_before_ms <= MAX_TIME_MS:
        raise InvalidInput(f"not_before_ms {not_before_ms!r} is not a number of milliseconds since the epoch")
    priority = body.get("priority", "normal")
    if priority not in ("high", "normal", "low"):
        raise InvalidInput(f"priority {priority!r} is not one of high, normal, low")
    return Invocation(
        agent=agent,
        key=str(key),
        idempotency_key=idempotency_key,
        input=orjson.dumps(body["input"]),
        submitted_at_ms=record.timestamp_ms,
        deadline_ms=record.timestamp_ms + int(timeout_s * 1000),
        not_before_ms=not_before_ms,
        tenant=str(body.get("tenant", "")),
        priority=priority,
        traceparent=headers.header(record.headers, "traceparent"),
    )


def waits_for_deploy(kind: str, error: Exception) -> bool:
    """Tell whether a record must be waited for rather than set aside."""
    return isinstance(error, UnknownSchema) and kind not in PUBLIC


def _key_part(key: bytes | None) -> str:
    return (key or b"").decode("utf-8", "replace").partition("/")[2]
