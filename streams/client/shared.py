"""Shared records and agent state, read and written from outside: the requests and the check are those of agents."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json, to_json

from streams.agents.shared import ATTEMPTS, Versioned, adapter_of, conflict_from, encoded
from streams.agents.state import PAGE_ENTRIES, StateShape
from streams.errors import HandlerError, InvalidInput, VersionConflict
from streams.records.ids import check_part, shared_id
from streams.records.signals import Answer, SharedRequest, StateRead, StateWrite

T = TypeVar("T")

Ask = Callable[[Any, str, str, float | None], Awaitable[Answer]]
"""Asks the shard that owns a text: the record, its request ID, the text, seconds to wait (None for the setting's)."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5


class RemoteRecords(Generic[T]):
    """Shared records of one name; `client.shared(name)`.

    All methods raise `ResultTimeout` when the record's shard does not answer in time. A write may have been applied
    then; reading tells. A request is sent again until it is answered, and applied once.

    Example:
        >>> risk = client.shared("risk", int)                                             # doctest: +SKIP
        >>> seen = await risk.read("cust-42")
        >>> await risk.write("cust-42", 0, expected=seen.version)
        >>> await risk.update("cust-42", lambda score: (score or 0) + 1)
    """

    def __init__(self, name: str, kind: Any, *, ask: Ask, client: str, writer: str) -> None:
        check_part("name of shared records", name)
        check_part("writer", writer)
        self.name = name
        self._adapter = adapter_of(kind)
        self._ask = ask
        self._client = client
        self._writer = writer

    async def read(self, key: str, *, timeout: float | None = None) -> Versioned[T | None]:
        """Return value and version of a record.

        Raises:
            InvalidInput: The key is empty or no text; or the stored value does not fit the type that was asked for.
        """
        return self._stored(key, from_json((await self._request(key, "read", timeout=timeout)).value))

    async def write(
        self, key: str, value: T, *, expected: Mapping[str, int] | None, timeout: float | None = None
    ) -> dict[str, int]:
        """Write a record and return its new version.

        Args:
            expected: Version that was read; `{}` for a record that must be new. None overwrites whatever is there: the
                last write wins, and the others are lost.

        Raises:
            VersionConflict: Somebody has written since; names whom.
            InvalidInput: The key, the value or its size is refused.
        """
        data = encoded(self._adapter, value, shared_id(self.name, key))
        return await self._write(key, "write", data, expected, timeout)

    async def delete(
        self, key: str, *, expected: Mapping[str, int] | None, timeout: float | None = None
    ) -> dict[str, int]:
        """Delete a record and return its version; as `write`."""
        return await self._write(key, "delete", None, expected, timeout)

    async def update(
        self, key: str, function: Callable[[T | None], T], *, attempts: int = ATTEMPTS, timeout: float | None = None
    ) -> Versioned[T]:
        """Replace a record by what *function* makes of it, so that no write of anybody is lost; return the new one.

        Args:
            function: Gets the value, None where there is none, and returns the new one. It may be called several times.
            attempts: Times that others may come first.
            timeout: Seconds to wait for each answer.

        Raises:
            VersionConflict: Others came first *attempts* times.
            Exception: Whatever *function* raises; nothing is written then.
        """
        seen = await self.read(key, timeout=timeout)
        for attempt in range(attempts):
            value = function(seen.value)
            if value is None:
                raise HandlerError(f"the function that updates {self.name}/{key} returned None; return the new value")
            data = encoded(self._adapter, value, shared_id(self.name, key))
            answer = await self._request(key, "write", data, seen.version, timeout)
            if answer.status == "ok":
                return Versioned(value, from_json(answer.value)["version"])
            found = from_json(answer.value)
            seen = self._stored(key, found)
            await asyncio.sleep(pause_s(attempt))
        raise conflict_from(found, shared_id(self.name, key), tries=attempts)

    async def _write(
        self, key: str, operation: str, data: bytes | None, expected: Mapping[str, int] | None, timeout: float | None
    ) -> dict[str, int]:
        answer = await self._request(key, operation, data, expected, timeout)
        if answer.status == "conflict":
            raise conflict_from(from_json(answer.value), shared_id(self.name, key))
        version: dict[str, int] = from_json(answer.value)["version"]
        return version

    async def _request(
        self,
        key: str,
        operation: str,
        value: bytes | None = None,
        expected: Mapping[str, int] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        owner, identity = shared_id(self.name, key), uuid.uuid4().hex
        request = SharedRequest(
            name=self.name,
            key=key,
            operation=operation,
            writer=self._writer,
            sent_at_ms=int(time.time() * 1000),
            value=value,
            expected=None if expected is None else dict(expected),
            client=self._client,
            request_id=identity,
        )
        answer = await self._ask(request, identity, owner, timeout)
        if answer.status == "refused":
            raise InvalidInput(answer.message)
        return answer

    def _stored(self, key: str, found: Mapping[str, Any]) -> Versioned[Any]:
        exists = bool(found["exists"])
        value = _fit(self._adapter, found["value"], shared_id(self.name, key)) if exists else None
        return Versioned(value, found["version"], exists)


@dataclass(frozen=True, slots=True)
class AgentState:
    """What an agent instance remembers.

    Attributes:
        value: The state model where the client was made with the app, else a dictionary; logs are read by `log`.
        version: Field to its version vector; empty for one that was never written.
    """

    value: Any
    version: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class LogPage:
    """Entries of a log in an agent's state.

    Attributes:
        entries: Oldest first.
        first: Position of the first of them; the page before it is read with `before=first`.
        length: Of the log.
    """

    entries: list[Any]
    first: int
    length: int


class RemoteState:
    """State of one agent instance; `client.state("dispute/cust-42")`.

    Reading gives what the last invocation that has ended has left. All methods raise `ResultTimeout` when the shard
    does not answer in time, and `InvalidInput` when it refuses: no such agent or field, a value that does not fit.
    """

    def __init__(
        self, agent_id: str, shape: StateShape | None, *, ask: Ask, client: str, writer: str, timeout_s: float
    ) -> None:
        check_part("writer", writer)
        self.agent_id = agent_id
        self._shape = shape
        self._ask = ask
        self._client = client
        self._writer = writer
        self._timeout_s = timeout_s

    async def read(self, *, timeout: float | None = None) -> AgentState:
        """Return all fields that are no logs, each with its version."""
        found = from_json(await self._read("", timeout=timeout))
        values = {name: field["value"] for name, field in found.items()}
        version = {name: field["version"] for name, field in found.items()}
        value: BaseModel | dict[str, Any] = values
        if self._shape is not None:
            value = _fit(TypeAdapter(self._shape.model), values, f"state of {self.agent_id}")
        return AgentState(value, version)

    async def log(
        self, field: str, *, before: int | None = None, size: int = PAGE_ENTRIES, timeout: float | None = None
    ) -> LogPage:
        """Return a page of a log: up to *size* entries that end before position *before*, the newest by default.

        A page holds at most `max_payload_bytes`, so it may be shorter.
        """
        if size < 1 or (before is not None and before < 0):
            raise InvalidInput(f"a page of {size} entries before position {before} is none")
        data = await self._read(field, before=-1 if before is None else before, size=size, timeout=timeout)
        page = LogPage(**from_json(data))
        if self._shape is None or not self._shape.is_log(field):
            return page
        fit = self._shape.entry_adapter(field)
        entries = [_fit(fit, entry, f"entry of {field} of {self.agent_id}") for entry in page.entries]
        return LogPage(entries, page.first, page.length)

    async def write(
        self,
        field: str,
        value: Any,
        *,
        expected: Mapping[str, int],
        wait: float | None = None,
        timeout: float | None = None,
    ) -> dict[str, int]:
        """Write a field, and return its new version.

        An invocation at work writes what it changes at its end: while there is one, this waits, and tries again.

        Args:
            expected: The field's version as it was read; `{}` for one that was never written.
            wait: Seconds to wait for an instance that is at work; by default as long as for an answer.
            timeout: Seconds to wait for each answer.

        Raises:
            VersionConflict: Somebody has written since, or the instance was at work until the time was over.
        """
        limit = self._timeout_s if wait is None else wait
        deadline, attempt = time.monotonic() + limit, 0
        data = encoded(TypeAdapter(Any), value, f"state field {field} of {self.agent_id}")
        while True:
            identity = uuid.uuid4().hex
            write = StateWrite(
                self.agent_id,
                field,
                data,
                self._writer,
                self._client,
                identity,
                int(time.time() * 1000),
                dict(expected),
            )
            answer = await self._ask(write, identity, self.agent_id, timeout)
            if answer.status == "ok":
                version: dict[str, int] = orjson.loads(answer.value)["version"]
                return version
            if answer.status == "refused":
                raise InvalidInput(answer.message)
            if answer.status == "conflict":
                raise conflict_from(from_json(answer.value), f"{self.agent_id}.{field}")
            if time.monotonic() >= deadline:
                raise VersionConflict(
                    f"{self.agent_id} is at work on {answer.message} for more than {limit:g} s, and writes its state "
                    "at the end; write then, or send it a signal",
                    expected=expected,
                    writers=(self.agent_id,),
                )
            await asyncio.sleep(pause_s(attempt))
            attempt += 1

    async def _read(self, field: str, *, before: int = -1, size: int = 1, timeout: float | None = None) -> bytes:
        identity, now_ms = uuid.uuid4().hex, int(time.time() * 1000)
        read = StateRead(self.agent_id, field, self._client, identity, now_ms, before, size)
        answer = await self._ask(read, identity, self.agent_id, timeout)
        if answer.status != "ok":
            raise InvalidInput(answer.message)
        return answer.value


def pause_s(attempt: int) -> float:
    """Return how long to wait before the next try, in seconds."""
    return random.random() * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt, 10))


def _fit(adapter: TypeAdapter[Any], value: Any, what: str) -> Any:
    try:
        return adapter.validate_json(to_json(value))
    except ValueError as error:
        raise InvalidInput(f"what is stored as {what} does not fit the type asked for: {error}") from None
