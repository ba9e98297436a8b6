"""Avro schemas derived from the record dataclasses.

The dataclass is the source; `schemas/` holds what is derived from it (`make schemas`), for people and tools that read
the topics without this package, and beside it, in `schemas/released/`, what was released, which stays readable. A test
holds the files equal to what is derived here and compatible, both ways, with what was released.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from typing import Any

NAMESPACE = "agent_streams"

_PRIMITIVES = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes"}


def schema_of(record: type[Any]) -> dict[str, Any]:
    """Return the Avro schema of a record dataclass.

    Raises:
        TypeError: A field's type has no Avro counterpart here.
    """
    hints = typing.get_type_hints(record)
    first_paragraph = (record.__doc__ or "").split("\n\n", 1)[0]
    return {
        "type": "record",
        "name": record.__name__,
        "namespace": NAMESPACE,
        "doc": " ".join(first_paragraph.split()),
        "fields": [_field(field, hints[field.name]) for field in dataclasses.fields(record)],
    }


def render(schema: dict[str, Any]) -> str:
    """Return the schema as it stands in its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def file_name(record: type[Any], version: str = "") -> str:
    """Return the name of a record's schema file, `tool-call.avsc`; with *version*, of a released one."""
    kebab = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", record.__name__).lower()
    return f"{kebab}-{version}.avsc" if version else f"{kebab}.avsc"


def _field(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    avro: dict[str, Any] = {"name": field.name, "type": _type(hint)}
    if field.default is not dataclasses.MISSING:
        default = field.default
        avro["default"] = default.decode("latin-1") if isinstance(default, bytes) else default
        if isinstance(default, tuple):
            avro["default"] = list(default)
    elif field.default_factory is not dataclasses.MISSING:
        avro["default"] = field.default_factory()
    return avro


def _type(hint: Any) -> Any:
    if hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        (inner,) = (a for a in arguments if a is not type(None))
        return ["null", _type(inner)]
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict and arguments[0] is str:
        return {"type": "map", "values": _type(arguments[1])}
    raise TypeError(f"{hint} has no Avro counterpart here; use a primitive, tuple[T, ...], dict[str, T] or T | None")
