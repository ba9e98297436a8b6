"""State of an agent instance: a pydantic model whose fields are records of their own, with append-only logs.

Loaded before a handler starts or is run again, compared by encoding when it ends: what changed in between, in place or
not, becomes the deltas of the invocation.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from streams.errors import ConfigurationError, HandlerError, InvalidInput

T = TypeVar("T")

PAGE_ENTRIES = 100


class Log(Generic[T]):
    """An append-only list in a state model: each entry is a record of its own, read by page.

    Appending costs the entry, not the log. Entries appended by this invocation become visible to others with its
    result.

    Example:
        >>> class Customer(BaseModel):
        ...     messages: Log[Message] = Log()
        >>> ctx.state.messages.append(Message(role="user", content="hello"))
        >>> await ctx.state.messages.page()
    """

    def __init__(self) -> None:
        self._base = 0
        self._read: Callable[[int, int], list[T]] = lambda start, stop: []
        self._appended: list[T] = []

    def append(self, entry: T) -> None:
        """Add *entry* at the end."""
        self._appended.append(entry)

    def __len__(self) -> int:
        """Entries when the invocation began, and those it has appended."""
        return self._base + len(self._appended)

    async def page(self, before: int | None = None, *, size: int = PAGE_ENTRIES) -> list[T]:
        """Return up to *size* entries that end before position *before*, oldest first; the newest by default.

        Raises:
            InvalidInput: *size* is below 1, or *before* is outside the log.
        """
        stop = len(self) if before is None else before
        if size < 1:
            raise InvalidInput(f"page size {size} is below 1")
        if not 0 <= stop <= len(self):
            raise InvalidInput(f"position {stop} is outside the log of {len(self)} entries")
        start = max(0, stop - size)
        stored = self._read(start, min(stop, self._base)) if start < self._base else []
        return stored + self._appended[max(0, start - self._base) : max(0, stop - self._base)]

    def _bind(self, base: int, read: Callable[[int, int], list[T]]) -> None:
        self._base = base
        self._read = read

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return core_schema.is_instance_schema(Log)


def log_entry(field: str, position: int) -> str:
    """Return the record name of a log's entry."""
    return f"{field}#{position:012d}"


@dataclass(frozen=True, slots=True)
class StateView:
    """The records of one agent instance as an invocation sees them, from its beginning to its end.

    Attributes:
        records: Field name to JSON.
        lengths: Log field to the number of its entries.
        entry: Returns the JSON of a log's entry.
    """

    records: Mapping[str, bytes]
    lengths: Mapping[str, int]
    entry: Callable[[str, int], bytes]


class StateShape:
    """What a state model consists of; made once, when the agent is declared.

    Raises:
        ConfigurationError: The model has a field that cannot be encoded as JSON, or no default for a field.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model
        self._fields: dict[str, TypeAdapter[Any]] = {}
        self._logs: dict[str, TypeAdapter[Any]] = {}
        for name, field in model.model_fields.items():
            if "#" in name or "/" in name:
                raise ConfigurationError(f"state field {model.__name__}.{name} contains '#' or '/'; rename it")
            if field.is_required():
                raise ConfigurationError(
                    f"state field {model.__name__}.{name} has no default; a new agent instance starts from the defaults"
                )
            if typing.get_origin(field.annotation) is Log or field.annotation is Log:
                arguments = typing.get_args(field.annotation)
                self._logs[name] = TypeAdapter(arguments[0] if arguments else Any)
            else:
                annotation: Any = field.annotation
                self._fields[name] = TypeAdapter(annotation)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are no logs."""
        return tuple(self._fields)

    def is_log(self, name: str) -> bool:
        """Tell whether a field is a log."""
        return name in self._logs

    def entry_adapter(self, name: str) -> TypeAdapter[Any]:
        """Return what the entries of a log are."""
        return self._logs[name]

    def check_field(self, name: str) -> str:
        """Return *name* if it is a field that is no log.

        Raises:
            InvalidInput: It is none; names those that there are.
        """
        if name in self._logs:
            raise InvalidInput(f"state field {self.model.__name__}.{name} is a Log; only its agent appends to it")
        if name not in self._fields:
            there = ", ".join((*self._fields, *self._logs))
            raise InvalidInput(f"{self.model.__name__} has no state field {name!r}; it has {there}")
        return name

    def check_value(self, name: str, data: bytes) -> bytes:
        """Return the JSON of a value for a field, as it is stored.

        Raises:
            InvalidInput: There is no such field, or the value does not fit it.
        """
        adapter = self._fields[self.check_field(name)]
        try:
            return adapter.dump_json(adapter.validate_json(data))
        except ValueError as error:
            raise InvalidInput(f"value for state field {self.model.__name__}.{name} does not fit: {error}") from None

    def default(self, name: str) -> bytes:
        """Return the JSON of what a field holds before anything is written."""
        return self._fields[name].dump_json(getattr(self.model(), name))

    def load(self, view: StateView) -> tuple[BaseModel, dict[str, bytes]]:
        """Return the model, and the encoding of each field as it was loaded.

        Raises:
            InvalidInput: A stored value does not fit the model any more.
        """
        values: dict[str, Any] = {}
        for name, adapter in self._fields.items():
            if (stored := view.records.get(name)) is not None:
                try:
                    values[name] = adapter.validate_json(stored)
                except ValueError as error:
                    raise InvalidInput(
                        f"stored state field {self.model.__name__}.{name} does not fit its type any more: {error}"
                    ) from error
        model = self.model(**values)
        for name, adapter in self._logs.items():
            log: Log[Any] = Log()
            log._bind(view.lengths.get(name, 0), _reader(view, name, adapter))
            setattr(model, name, log)
        return model, {name: adapter.dump_json(getattr(model, name)) for name, adapter in self._fields.items()}

    def changes(self, model: BaseModel, loaded: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """Yield record name and JSON of every record that the invocation changed.

        Raises:
            HandlerError: A value that cannot be encoded.
        """
        for name, adapter in self._fields.items():
            encoded = _dump(adapter, getattr(model, name), f"{self.model.__name__}.{name}")
            if encoded != loaded[name]:
                yield name, encoded
        for name, adapter in self._logs.items():
            log = getattr(model, name)
            if not isinstance(log, Log):
                raise HandlerError(
                    f"state field {self.model.__name__}.{name} is a Log; append to it, do not replace it"
                )
            for position, entry in enumerate(log._appended, log._base):
                yield log_entry(name, position), _dump(adapter, entry, f"entry of {self.model.__name__}.{name}")


def _reader(view: StateView, name: str, adapter: TypeAdapter[Any]) -> Callable[[int, int], list[Any]]:
    return lambda start, stop: [adapter.validate_json(view.entry(name, i)) for i in range(start, stop)]


def _dump(adapter: TypeAdapter[Any], value: Any, what: str) -> bytes:
    try:
        return adapter.dump_json(adapter.validate_python(value))
    except ValueError as error:
        raise HandlerError(f"{what} cannot be stored: {error}") from error
