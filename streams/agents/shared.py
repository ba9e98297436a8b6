"""Records between agents, as a handler uses them: every operation is a step, and its outcome is journaled.

What a step asks for and what its completion means is here; which shard owns a record, and what happens when several
write to it, is `streams.shards`' part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

import orjson
from pydantic import TypeAdapter

from streams.agents.run import Run
from streams.errors import HandlerError, InvalidInput, VersionConflict
from streams.records.ids import shared_id
from streams.records.journal import Completion
from streams.records.versions import Missed, relate

T = TypeVar("T")

ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A value, and the version that it had when it was read.

    Attributes:
        value: None where the record does not exist.
        version: Version vector: writer to the number of its writes. Empty where nobody has ever written.
        exists: It was written and not deleted since.
    """

    value: T
    version: dict[str, int]
    exists: bool = True


class SharedRecords(Generic[T]):
    """Records of one name, shared by all agents and clients; `ctx.shared(name)`.

    Every operation is applied by the shard that owns the record, in one order for everybody. What was written stands
    even if the invocation that wrote it fails later.

    Example:
        >>> risk = ctx.shared("risk", int)                                                # doctest: +SKIP
        >>> await risk.update("cust-42", lambda score: (score or 0) + 1)
        >>> seen = await risk.read("cust-42")
        >>> await risk.write("cust-42", 0, expected=seen.version)
    """

    def __init__(self, run: Run, name: str, kind: Any) -> None:
        self.name = name
        self._run = run
        self._adapter = adapter_of(kind)

    async def read(self, key: str) -> Versioned[T | None]:
        """Return value and version of a record.

        Raises:
            InvalidInput: The key is empty or no text; or the stored value does not fit the type that was asked for.
        """
        step: SharedStep = self._step(key, "read")
        return await self._ask(step)  # type: ignore[no-any-return]

    async def write(self, key: str, value: T, *, expected: Mapping[str, int] | None) -> dict[str, int]:
        """Write a record and return its new version.

        Args:
            expected: Version that was read; `{}` for a record that must be new. None overwrites whatever is there: the
                last write wins, and the others are lost.

        Raises:
            VersionConflict: Somebody has written since; names whom.
            InvalidInput: The key is empty or no text, or the value cannot be encoded.
            HandlerError: The value is over its bound.
        """
        data = encoded(self._adapter, value, shared_id(self.name, key))
        return await self._ask(self._step(key, "write", value=data, expected=expected))  # type: ignore[no-any-return]

    async def delete(self, key: str, *, expected: Mapping[str, int] | None) -> dict[str, int]:
        """Delete a record and return its version, which goes on from there; one that does not exist stays so.

        Args:
            expected: As for `write`.

        Raises:
            VersionConflict: Somebody has written since; names whom.
        """
        return await self._ask(self._step(key, "delete", expected=expected))  # type: ignore[no-any-return]

    async def update(
        self,
        key: str,
        function: Callable[[T | None], T],
        *,
        attempts: int = ATTEMPTS,
        raises: tuple[type[Exception], ...] = (),
    ) -> Versioned[T]:
        """Replace a record by what *function* makes of it, so that no write of anybody is lost; return the new one.

        When somebody else wrote in between, it is done again with what is there now, after a pause with jitter that
        grows; updates of one shard go together.

        Args:
            function: Gets the value, None where there is none, and returns the new one. It may be called several times,
                and is not called again when the handler is run again: it must depend on nothing but its argument.
            attempts: Times that others may come first.
            raises: Exceptions of *function* that reach the handler as they are; nothing is written then.

        Raises:
            VersionConflict: Others came first *attempts* times.
            HandlerError: *function* failed, or what it returned cannot be stored.
        """
        if attempts < 1:
            raise InvalidInput(f"attempts of {attempts} is below 1")
        known = {kind.__name__: kind for kind in raises}
        step = self._step(key, "update", function=function, attempts=attempts, raises=known)
        return await self._ask(step)  # type: ignore[no-any-return]

    def _step(self, key: str, operation: str, **more: Any) -> SharedStep:
        shared_id(self.name, key)
        return SharedStep(self.name, key, operation, self._adapter, **more)

    async def _ask(self, step: SharedStep) -> Any:
        return await self._run.request("shared", f"{step.name}/{step.key}", step.payload, step)


@dataclass(frozen=True, slots=True)
class SharedStep:
    """One operation on a shared record.

    Attributes:
        operation: `read`, `write`, `delete` or `update`.
        raises: By name, exceptions of *function* that the handler wants as they are.
    """

    name: str
    key: str
    operation: str
    adapter: TypeAdapter[Any]
    value: bytes | None = None
    expected: Mapping[str, int] | None = None
    function: Callable[[Any], Any] | None = None
    attempts: int = ATTEMPTS
    raises: Mapping[str, type[Exception]] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """By whose partition the record is owned."""
        return shared_id(self.name, self.key)

    @property
    def payload(self) -> bytes:
        """What tells this request from another one when the handler is run again."""
        expected = b"any" if self.expected is None else orjson.dumps(dict(self.expected), option=orjson.OPT_SORT_KEYS)
        return b"%b\x00%b\x00%b" % (self.operation.encode(), expected, self.value or b"")

    def compute(self, current: bytes | None) -> bytes:
        """Return the JSON of what the function makes of the record.

        Raises:
            Exception: Whatever the function raises.
            HandlerError: It returned nothing, or what cannot be stored.
        """
        assert self.function is not None
        value = self.function(None if current is None else self._value(current))
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise HandlerError(f"the function that updates {self.owner} is async; pass a plain one")
        if value is None:
            raise HandlerError(f"the function that updates {self.owner} returned None; return the new value")
        return encoded(self.adapter, value, self.owner)

    def resolve(self, completion: Completion) -> Any:
        """Return what the handler gets, or raise what it sees."""
        if completion.status == "conflict":
            raise conflict_from(orjson.loads(completion.cause), self.owner, tries=self._tries(completion))
        if completion.status != "ok":
            kind = {**_OWN, **self.raises}.get(completion.error_type)
            if kind is None:
                raise HandlerError(f"{completion.error_type}: {completion.error_message}")
            raise kind(completion.error_message)
        version: dict[str, int] = orjson.loads(completion.cause)
        if self.operation in ("write", "delete"):
            return version
        data = completion.value
        return Versioned(None if data is None else self._value(data), version, data is not None)

    def _tries(self, completion: Completion) -> int:
        return completion.attempts if self.operation == "update" else 0

    def _value(self, data: bytes) -> Any:
        try:
            return self.adapter.validate_json(data)
        except ValueError as error:
            raise InvalidInput(f"what is stored as {self.owner} does not fit the type asked for: {error}") from None


_OWN: Mapping[str, type[Exception]] = {kind.__name__: kind for kind in (HandlerError, InvalidInput)}


def conflict_from(found: Mapping[str, Any], what: str, *, tries: int = 0) -> VersionConflict:
    """Return the exception that a conflict's JSON describes (see `conflict_of`).

    Args:
        tries: For an update, after how many it was given up.
    """
    gone = Missed(tuple(found["writers"]), found["others"])
    relation = relate(found["expected"], found["current"])
    if tries:
        said = f"others came first {tries} times, at last {gone}; try again later, or split the record"
    elif relation == "older":
        said = f"written since by {gone}; expected {found['expected']}, current {found['current']}; read it again"
    else:
        said = f"the expected version {found['expected']} is {relation} to {found['current']}: of another history"
    return VersionConflict(
        f"{what}: {said}",
        expected=found["expected"],
        current=found["current"],
        writers=gone.writers,
        others=gone.others,
        relation=relation,
    )


def conflict_of(
    expected: Mapping[str, int], current: Mapping[str, int], writers: tuple[str, ...], others: int
) -> bytes:
    """Return the JSON by which a conflict travels to whoever raises it."""
    return orjson.dumps(
        {"expected": dict(expected), "current": dict(current), "writers": writers, "others": others}
    )  # fmt: skip


def encoded(adapter: TypeAdapter[Any], value: Any, what: str) -> bytes:
    """Return a value as JSON.

    Raises:
        InvalidInput: It cannot be encoded, or does not fit its type.
    """
    try:
        return adapter.dump_json(adapter.validate_python(value))
    except ValueError as error:
        raise InvalidInput(f"the value for {what} cannot be stored: {error}") from None


def adapter_of(kind: Any) -> TypeAdapter[Any]:
    """Return the adapter of a type; making one is slow, so those of types that can be keys are kept."""
    try:
        return _kept_adapter(kind)
    except TypeError:
        return TypeAdapter(kind)


@lru_cache(maxsize=256)
def _kept_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
