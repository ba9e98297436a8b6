"""Record headers: CloudEvents attributes, W3C trace context and the record type.

A meter or a router works from the key and these, without decoding. CloudEvents 1.0 in Kafka's binary mode: attributes
are headers with the prefix `ce_`.
"""

from __future__ import annotations

from functools import cache

JSON_TYPE = b"application/json"
AVRO_TYPE = b"avro/binary"
PRIORITY = "ce_priority"
"""Name of the header of an invocation whose priority is not `normal`."""
LOW = b"low"

Headers = tuple[tuple[str, bytes], ...]


def internal(record_type: str, traceparent: str = "") -> Headers:
    """Return the headers of a record between parts of the product: its type, and the trace it belongs to."""
    kind = _type(record_type)
    return (*kind, ("traceparent", traceparent.encode())) if traceparent else kind


def public(
    record_type: str, *, record_id: str, source: str, content_type: bytes, traceparent: str = "", priority: str = ""
) -> Headers:
    """Return the headers of a record that others read too (`invocations`, `results`): full CloudEvents.

    Args:
        priority: Of an invocation, empty for `normal`.
    """
    return (
        *(((PRIORITY, priority.encode()),) if priority else ()),
        *internal(record_type, traceparent),
        ("ce_specversion", b"1.0"),
        ("ce_id", record_id.encode()),
        ("ce_source", source.encode()),
        ("content-type", content_type),
    )


def backpressure(level: str, retry_after_s: float, ttl_s: float) -> Headers:
    """Return the headers of a backpressure signal: what producers need of it who have a Kafka client and no Avro.

    Both durations are decimal seconds and count from the record's timestamp.
    """
    return (
        *internal("BackpressureSignal"),
        ("level", level.encode()),
        ("retry_after_s", b"%.3f" % retry_after_s),
        ("ttl_s", b"%g" % ttl_s),
    )


@cache
def _type(record_type: str) -> Headers:
    """Made once for each type: on the way through a shard nearly every record has no other header."""
    return (("ce_type", f"streams.{record_type}".encode()),)


def is_json(headers: Headers) -> bool:
    """Tell whether a value is JSON, by its `content-type` header."""
    return any(name == "content-type" and value.split(b";")[0].strip() == JSON_TYPE for name, value in headers)


def header(headers: Headers, name: str) -> str:
    """Return the first header of that name as text, empty where there is none."""
    return next((value.decode("utf-8", "replace") for key, value in headers if key == name), "")
