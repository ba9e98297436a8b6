"""Arguments that a JSON schema declares: those of MCP tools and of OpenAPI operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import best_match

from streams.agents.signature import by_name
from streams.errors import ConfigurationError, InvalidInput

MOST_SHOWN_CHARS = 200


class SchemaArguments:
    """The arguments of one tool.

    Args:
        schema: Of type `object`; what it does not name is refused unless it says `additionalProperties`.

    Raises:
        ConfigurationError: It is no JSON schema, or not of an object.
    """

    def __init__(self, tool: str, schema: Mapping[str, Any]) -> None:
        if schema.get("type", "object") != "object":
            raise ConfigurationError(
                f"the arguments of tool {tool!r} are declared as {schema.get('type')!r}; they must be an object"
            )
        self._tool = tool
        self._schema = {"additionalProperties": False, **schema, "type": "object"}
        try:
            Draft202012Validator.check_schema(self._schema)
        except SchemaError as error:
            raise ConfigurationError(
                f"the arguments of tool {tool!r} have a wrong JSON schema: {error.message}"
            ) from None
        self._validator = Draft202012Validator(self._schema)
        self.names = tuple(self._schema.get("properties", ()))

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the JSON object of a call's arguments.

        Raises:
            InvalidInput: They do not fit the schema; names the parameter.
            TypeError: Too many positional arguments, or one given twice.
        """
        try:
            data = orjson.dumps(by_name(self._tool, self.names, args, kwargs))
        except orjson.JSONEncodeError as error:
            raise InvalidInput(f"arguments of {self._tool}: {error}") from None
        self.decode(data)
        return data

    def decode(self, data: bytes) -> dict[str, Any]:
        """Return keyword arguments from their JSON object.

        Raises:
            InvalidInput: They do not fit the schema; names the parameter.
        """
        try:
            arguments = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"arguments of {self._tool} are not JSON: {error}") from None
        problem = best_match(self._validator.iter_errors(arguments))
        if problem is not None:
            where = ".".join(str(part) for part in problem.absolute_path)
            raise InvalidInput(
                f"arguments of {self._tool}: {f'{where}: ' if where else ''}{problem.message[:MOST_SHOWN_CHARS]}"
            )
        found: dict[str, Any] = arguments
        return found

    def json_schema(self) -> dict[str, Any]:
        """Return the schema, as model providers take it."""
        return dict(self._schema)
