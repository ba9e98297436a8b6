"""Reading one operation out of an OpenAPI 3 document: method, URL, and its parameters and body as one JSON schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.errors import ConfigurationError
from streams.tools.http_operation import METHODS, PLACEHOLDER, Where

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class FoundOperation:
    """An operation of a document.

    Attributes:
        arguments: JSON schema of an object: its parameters, and the properties of its JSON body.
        places: Where each argument goes.
    """

    method: str
    url: str
    description: str
    arguments: dict[str, Any]
    places: dict[str, Where]


def read_document(document: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """Return a document that is at hand, or in a file (JSON, or YAML where PyYAML is installed).

    Raises:
        ConfigurationError: It cannot be read, or is no OpenAPI 3 document.
    """
    found = _load(Path(document)) if isinstance(document, str | Path) else document
    if not isinstance(found, Mapping) or not str(found.get("openapi", "")).startswith("3."):
        raise ConfigurationError("openapi= is no OpenAPI 3 document: it has no `openapi: 3.x`; convert it")
    return found


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"OpenAPI document {path} cannot be read: {error.strerror}") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        if path.suffix == ".json":
            raise ConfigurationError(f"OpenAPI document {path} is not JSON: {problem}") from None
    try:
        import yaml
    except ImportError:
        raise ConfigurationError(
            f"OpenAPI document {path} is not JSON, and PyYAML is not installed; pip install pyyaml, or convert it"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"OpenAPI document {path} is neither JSON nor YAML: {error}") from None


def find_operation(document: Mapping[str, Any], operation: str, base_url: str | None) -> FoundOperation:
    """Return the operation of an ID.

    Args:
        base_url: Instead of the document's first server.

    Raises:
        ConfigurationError: There is none, it has no address, or its body is not JSON.
    """
    for path, item in document.get("paths", {}).items():
        for method in METHODS:
            entry = item.get(method.lower())
            if entry is not None and entry.get("operationId") == operation:
                return _read(document, path, method, item, entry, base_url)
    raise ConfigurationError(
        f"the OpenAPI document has no operation {operation!r}; it has {', '.join(_ids(document)) or 'none'}"
    )


def _ids(document: Mapping[str, Any]) -> Iterator[str]:
    for item in document.get("paths", {}).values():
        for method in METHODS:
            if (found := item.get(method.lower(), {}).get("operationId")) is not None:
                yield found


def _read(
    document: Mapping[str, Any],
    path: str,
    method: str,
    item: Mapping[str, Any],
    entry: Mapping[str, Any],
    base_url: str | None,
) -> FoundOperation:
    name = entry["operationId"]
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    places: dict[str, Where] = {}
    declared = {}
    for raw in (*item.get("parameters", ()), *entry.get("parameters", ())):
        parameter = resolve(document, raw)
        declared[parameter["in"], parameter["name"]] = parameter
    for (where, key), parameter in declared.items():
        if where == "cookie":
            continue
        if key in places:
            raise ConfigurationError(f"operation {name!r} has two parameters {key!r}; declare a plain @app.tool for it")
        described = resolve(document, parameter.get("schema", {}))
        if text := parameter.get("description"):
            described = {"description": text, **described}
        schema["properties"][key] = described
        places[key] = where
        if parameter.get("required"):
            schema["required"].append(key)
    if body := entry.get("requestBody"):
        _take_body(document, name, resolve(document, body), schema, places)
    for key in PLACEHOLDER.findall(path):
        if places.get(key) != "path":
            raise ConfigurationError(f"operation {name!r} has {{{key}}} in its path and declares no such parameter")
    text = " ".join(part for part in (entry.get("summary"), entry.get("description")) if part)
    return FoundOperation(method, _address(document, base_url, name) + path, text, schema, places)


def _take_body(
    document: Mapping[str, Any], name: str, body: Mapping[str, Any], schema: dict[str, Any], places: dict[str, Where]
) -> None:
    content = next((media for kind, media in body.get("content", {}).items() if kind.split(";")[0] == JSON), None)
    if content is None:
        raise ConfigurationError(
            f"operation {name!r} takes {', '.join(body.get('content', ())) or 'an unknown body'}, and only {JSON} can "
            "be sent; declare a plain @app.tool for it"
        )
    shape = resolve(document, content.get("schema", {}))
    properties = shape.get("properties", {})
    if shape.get("type") == "object" and properties and not places.keys() & properties.keys():
        schema["properties"] |= properties
        schema["required"] += shape.get("required", []) if body.get("required") else []
        places |= dict.fromkeys(properties, "body")
        return
    schema["properties"]["body"] = shape
    places["body"] = "whole body"
    if body.get("required"):
        schema["required"].append("body")


def _address(document: Mapping[str, Any], base_url: str | None, name: str) -> str:
    servers: list[Mapping[str, Any]] = document.get("servers") or [{}]
    server = servers[0]
    address = base_url or server.get("url", "")
    for key, variable in server.get("variables", {}).items():
        address = address.replace(f"{{{key}}}", variable.get("default", ""))
    if not address.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"the OpenAPI document has no absolute server address for operation {name!r}; give base_url="
        )
    return str(address).rstrip("/")


def resolve(document: Mapping[str, Any], value: Any, within: tuple[str, ...] = ()) -> Any:
    """Return *value* with every local `$ref` replaced by what it points to.

    Args:
        within: The references that led here.

    Raises:
        ConfigurationError: It points to another file, to nothing, or in a circle.
    """
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str):
            if reference in within:
                raise ConfigurationError(
                    f"$ref {reference!r} of the OpenAPI document leads to itself; declare a plain @app.tool for it"
                )
            return resolve(document, _point(document, reference), (*within, reference))
        return {key: resolve(document, inner, within) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve(document, inner, within) for inner in value]
    return value


def _point(document: Mapping[str, Any], reference: str) -> Any:
    if not reference.startswith("#/"):
        raise ConfigurationError(f"$ref {reference!r} points out of the OpenAPI document; bundle it into one file")
    found: Any = document
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            raise ConfigurationError(f"$ref {reference!r} points to nothing in the OpenAPI document")
        found = found[key]
    return found
