"""What a handler is given: its state, the invocation it answers, and time, randomness and signals that are durable."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Generic, TypeVar, overload
from uuid import UUID

from pydantic import TypeAdapter

from streams.agents.run import Run
from streams.agents.shared import SharedRecords
from streams.errors import ConfigurationError, InvalidInput, SignalTimeout
from streams.records.ids import check_part
from streams.records.journal import Completion

S = TypeVar("S")
T = TypeVar("T")


class Context(Generic[S]):
    """The first argument of every handler.

    Attributes:
        invocation_id: `name/key/idempotency-key`.
        agent_id: `name/key`.
        tenant: Who pays; empty when the submitter gave none.
    """

    def __init__(self, run: Run, state: S | None) -> None:
        self._run = run
        self._state = state
        self._random: Random | None = None
        self.invocation_id = run.invocation.id
        self.agent_id = run.invocation.agent_id
        self.tenant = run.invocation.tenant

    @property
    def state(self) -> S:
        """State of this agent instance; change it in place or assign fields. Visible to others with the result.

        Raises:
            ConfigurationError: The agent was declared without `state=`.
        """
        if self._state is None:
            raise ConfigurationError(f"agent {self._run.invocation.agent!r} has no state; declare it with state=Model")
        return self._state

    @property
    def deadline(self) -> datetime:
        """When the invocation is ended as failed."""
        return datetime.fromtimestamp(self._run.invocation.deadline_ms / 1000, UTC)

    def now(self) -> datetime:
        """Return the time of the last completion; the same on every run."""
        return datetime.fromtimestamp(self._run.loop.clock, UTC)

    def random(self) -> float:
        """Return a number in [0, 1); the same on every run."""
        return self.rng.random()

    @property
    def rng(self) -> Random:
        """A generator seeded by the invocation's identity, for `choice`, `shuffle` and friends."""
        self._run.check_free("ctx.rng")
        if self._random is None:
            self._random = Random(f"{self.invocation_id}#{self._run.incarnation}")
        return self._random

    def uuid(self) -> UUID:
        """Return a random UUID (version 4); the same on every run."""
        return UUID(int=self.rng.getrandbits(128), version=4)

    def patched(self, patch: str) -> bool:
        """Tell whether to take a changed path: True for invocations that reach it anew, False for those past it.

        Args:
            patch: A name for the change, never reused.
        """
        return self._run.patched(patch)

    @overload
    async def signal(self, name: str, *, timeout: float | None = None) -> Any: ...
    @overload
    async def signal(self, name: str, kind: type[T], *, timeout: float | None = None) -> T: ...
    async def signal(self, name: str, kind: Any = Any, *, timeout: float | None = None) -> Any:
        """Wait for a signal sent by `handle.signal(name, value)`; one that came earlier is taken at once.

        Args:
            name: Signals of one name are taken in the order in which they came.
            kind: What the value must be.
            timeout: Seconds to wait; None waits until the invocation's deadline.

        Raises:
            SignalTimeout: It did not come in time.
            InvalidInput: Its value does not fit *kind*.
        """
        check_part("signal name", name)
        future = self._run.request("signal", name, b"", SignalSpec(name, TypeAdapter(kind)))
        if timeout is None:
            return await future
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise SignalTimeout(f"signal {name!r} did not come within {timeout:g} s") from None

    @overload
    def shared(self, name: str) -> SharedRecords[Any]: ...
    @overload
    def shared(self, name: str, kind: type[T]) -> SharedRecords[T]: ...
    def shared(self, name: str, kind: Any = Any) -> SharedRecords[Any]:
        """Return the shared records of that name: written by any agent or client, checked against their version.

        Args:
            kind: What every value must be.
        """
        check_part("name of shared records", name)
        return SharedRecords(self._run, name, kind)


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """A wait for a signal."""

    name: str
    adapter: TypeAdapter[Any]

    def resolve(self, completion: Completion) -> Any:
        """Return the signal's value as the type that the handler asked for."""
        try:
            return self.adapter.validate_json(completion.value or b"null")
        except ValueError as error:
            raise InvalidInput(f"value of signal {self.name!r} does not fit: {error}") from None
