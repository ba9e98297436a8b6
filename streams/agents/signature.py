"""Types of a declared function, as pydantic sees them: arguments to JSON and back, return value to JSON and back."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from streams.errors import ConfigurationError, InvalidInput


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was declared.

    Attributes:
        names: Local names there, for resolving annotations of functions inside functions.
    """

    file: str
    line: int
    names: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def place_of_caller(depth: int = 2) -> Place:
    """Return where the caller's caller stands."""
    frame: FrameType = sys._getframe(depth)
    return Place(frame.f_code.co_filename, frame.f_lineno, dict(frame.f_locals))


def hints_of(function: Callable[..., Any], place: Place) -> dict[str, Any]:
    """Return the resolved annotations of *function*.

    Raises:
        ConfigurationError: One cannot be resolved.
    """
    try:
        return typing.get_type_hints(function, localns=dict(place.names), include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"{place}: an annotation of {function.__name__} cannot be resolved: {error}; define the name before it"
        ) from error


class Arguments:
    """The parameters of a function as one JSON object.

    Raises:
        ConfigurationError: The function takes `*args`, `**kwargs` or positional-only parameters.
    """

    def __init__(self, function: Callable[..., Any], place: Place) -> None:
        hints = hints_of(function, place)
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigurationError(
                    f"{place}: parameter {parameter} of {function.__name__} has no name of its own; "
                    "arguments travel as a JSON object, so name each one"
                )
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
        self.names = tuple(fields)
        self._function = function.__name__
        self.model: type[BaseModel] = create_model(
            f"{function.__name__}_arguments",
            __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False, protected_namespaces=()),
            **fields,
        )

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the JSON object of a call's arguments.

        Raises:
            InvalidInput: They do not fit the signature; names the parameter.
            TypeError: Too many positional arguments, or one given twice, as in a plain call.
        """
        values = dict(kwargs)
        if len(args) > len(self.names):
            raise TypeError(f"{self._function}() takes {len(self.names)} arguments, {len(args)} were given")
        for name, value in zip(self.names, args, strict=False):
            if name in values:
                raise TypeError(f"{self._function}() got multiple values for argument {name!r}")
            values[name] = value
        try:
            model = self.model(**values)
        except ValidationError as error:
            raise InvalidInput(f"arguments of {self._function}: {explain(error)}") from None
        return model.__pydantic_serializer__.to_json(model)

    def decode(self, data: bytes) -> dict[str, Any]:
        """Return keyword arguments from their JSON object.

        Raises:
            InvalidInput: They do not fit the signature; names the parameter.
        """
        try:
            parsed = self.model.model_validate_json(data)
        except ValidationError as error:
            raise InvalidInput(f"arguments of {self._function}: {explain(error)}") from None
        return {name: getattr(parsed, name) for name in self.names}

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments, as model providers take it."""
        schema = self.model.model_json_schema()
        schema.pop("title", None)
        return schema


def returned(hints: Mapping[str, Any]) -> TypeAdapter[Any]:
    """Return the adapter of a function's return type; without an annotation anything that JSON can carry."""
    return TypeAdapter(hints.get("return", Any))


def explain(error: ValidationError) -> str:
    """Return a validation error in one line: field, problem, value."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "value"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {first['msg']}, got {_short(first.get('input'))}{more}"


def field_of(error: ValidationError) -> str:
    """Return the dotted path of the first field that is wrong, empty for the value as a whole."""
    return ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
