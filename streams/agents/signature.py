"""Types of a declared function, as pydantic sees them: arguments to JSON and back, return value to JSON and back."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any, Protocol, Self

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

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


class CallArguments(Protocol):
    """The arguments of a tool's calls as one JSON object, whatever they are declared by."""

    names: tuple[str, ...]

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the JSON object of a call's arguments.

        Raises:
            InvalidInput: They do not fit; names the parameter.
            TypeError: Too many positional arguments, or one given twice, as in a plain call.
        """
        ...

    def decode(self, data: bytes) -> dict[str, Any]:
        """Return keyword arguments from their JSON object.

        Raises:
            InvalidInput: They do not fit; names the parameter.
        """
        ...

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments, as model providers take it."""
        ...


class Arguments:
    """The parameters of a function as one JSON object; its docstring describes them in the schema.

    Raises:
        ConfigurationError: The function takes `*args`, `**kwargs` or positional-only parameters.
    """

    def __init__(self, function: Callable[..., Any], place: Place) -> None:
        hints = hints_of(function, place)
        told = described(function)
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigurationError(
                    f"{place}: parameter {parameter} of {function.__name__} has no name of its own; "
                    "arguments travel as a JSON object, so name each one"
                )
            hint = hints.get(name, Any)
            if name in told and not _has_description(hint):
                hint = Annotated[hint, Field(description=told[name])]
            fields[name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
        self._define(function.__name__, fields)

    @classmethod
    def of_fields(cls, function: str, fields: Mapping[str, Any]) -> Self:
        """Return arguments that no function declares: *fields* as pydantic's `create_model` takes them."""
        made = cls.__new__(cls)
        made._define(function, fields)
        return made

    def _define(self, function: str, fields: Mapping[str, Any]) -> None:
        self.names = tuple(fields)
        self._function = function
        self.model: type[BaseModel] = create_model(
            f"{function}_arguments",
            __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False, protected_namespaces=()),
            **fields,
        )

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the JSON object of a call's arguments.

        Raises:
            InvalidInput: They do not fit the signature; names the parameter.
            TypeError: Too many positional arguments, or one given twice, as in a plain call.
        """
        values = by_name(self._function, self.names, args, kwargs)
        try:
            model: BaseModel = self.model.__pydantic_validator__.validate_python(values)
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


def by_name(function: str, names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by their names.

    Raises:
        TypeError: Too many positional ones, or one given twice, as in a plain call.
    """
    values = dict(kwargs)
    if len(args) > len(names):
        raise TypeError(f"{function}() takes {len(names)} arguments, {len(args)} were given")
    for name, value in zip(names, args, strict=False):
        if name in values:
            raise TypeError(f"{function}() got multiple values for argument {name!r}")
        values[name] = value
    return values


def described(function: Callable[..., Any]) -> dict[str, str]:
    """Return what a function's docstring says of its parameters: Google's, NumPy's, Epydoc's or reST's way."""
    text = inspect.getdoc(function)
    if not text:
        return {}
    return {p.arg_name: " ".join(p.description.split()) for p in docstring_parser.parse(text).params if p.description}


def purpose(function: Callable[..., Any]) -> str:
    """Return what a function's docstring says of the function itself, without its sections."""
    text = inspect.getdoc(function)
    return (docstring_parser.parse(text).description or "").strip() if text else ""


def _has_description(hint: Any) -> bool:
    return any(getattr(extra, "description", None) for extra in getattr(hint, "__metadata__", ()))


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
