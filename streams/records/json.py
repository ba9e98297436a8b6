"""Results as JSON, for consumers that only have a Kafka client."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

from streams.errors import CodecError
from streams.records.invocations import Result

_FIELDS = frozenset(field.name for field in dataclasses.fields(Result))


def result_to_json(result: Result) -> bytes:
    """Return a result as a JSON object; its value is JSON inside, not text."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    fields["value"] = orjson.Fragment(result.value) if result.value is not None else None
    fields["input_digest"] = result.input_digest.hex()
    return orjson.dumps({"id": result.id, **fields})


def result_from_json(data: bytes) -> Result:
    """Return the result in a JSON object that `result_to_json` made; members that are new to this version are ignored.

    Raises:
        CodecError: It is not such an object.
    """
    try:
        found: Any = orjson.loads(data)
        fields = {name: each for name, each in found.items() if name in _FIELDS}
        if fields.get("value") is not None:
            fields["value"] = orjson.dumps(fields["value"])
        fields["input_digest"] = bytes.fromhex(fields.get("input_digest", ""))
        return Result(**fields)
    except (TypeError, ValueError, AttributeError) as error:
        raise CodecError(f"{len(data)} bytes are not a JSON result: {type(error).__name__}: {error}") from error
