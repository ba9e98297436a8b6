"""An agent as it was declared: handler, types, state, key; and what it is inside another agent's handler."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from streams.agents.budget import Budget
from streams.agents.context import Context
from streams.agents.run import Run, current_run
from streams.agents.signature import explain, field_of
from streams.agents.state import StateShape, StateView
from streams.errors import AgentDeadlock, ChildFailed, ConfigurationError, HandlerError, InvalidInput, named
from streams.records.ids import agent_id
from streams.records.journal import Completion

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741

Handler = Callable[[Context[Any], I], Coroutine[Any, Any, O]]


class BadInput(InvalidInput):
    """An invocation's input does not fit; *field* is the dotted path of what is wrong."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, eq=False)
class Agent(Generic[I, O]):
    """A declared agent. Awaited inside another agent's handler it is a child invocation.

    Attributes:
        key: Returns the agent key of an input.
        budget: Bound on what one invocation may spend; pinned when it starts.
        version: Journaled with each invocation; change it when a change to the handler is not covered by `patched`.
        concurrent: Invocations of one instance run beside each other and only read state.
    """

    name: str
    handler: Handler[I, O]
    key: Callable[[I], str]
    input: TypeAdapter[I]
    output: TypeAdapter[O]
    state: StateShape | None = None
    budget: Budget = field(default_factory=Budget)
    version: str = "1"
    concurrent: bool = False
    description: str = ""

    def parse(self, data: bytes) -> I:
        """Return the input from its JSON.

        Raises:
            BadInput: It does not fit; names the field.
        """
        try:
            return cast(I, self.input.validator.validate_json(data))
        except ValidationError as error:
            raise BadInput(f"input of agent {self.name!r}: {explain(error)}", field_of(error)) from None

    def encode_input(self, value: I) -> tuple[str, bytes]:
        """Return the agent key of an input, and its JSON, after validating it.

        Raises:
            InvalidInput: It does not fit, or gives no key; names the field.
        """
        try:
            valid = self.input.validate_python(value)
            return self.key_of(valid), self.input.dump_json(valid)
        except ValidationError as error:
            raise BadInput(f"input of agent {self.name!r}: {explain(error)}", field_of(error)) from None

    def key_of(self, value: I) -> str:
        """Return the agent key of an input.

        Raises:
            InvalidInput: The key cannot be derived, or is not text that IDs can carry.
        """
        try:
            key = self.key(value)
        except Exception as error:
            raise InvalidInput(f"key of agent {self.name!r} cannot be derived from its input: {error!r}") from error
        if not isinstance(key, str):
            raise InvalidInput(f"key of agent {self.name!r} is {key!r}; it must be text, so convert it in key=")
        agent_id(self.name, key)
        return key

    def encode_output(self, value: Any) -> bytes:
        """Return what the handler returned, as JSON.

        Raises:
            HandlerError: It is not what the handler's return type allows.
        """
        try:
            return self.output.serializer.to_json(self.output.validator.validate_python(value))
        except ValueError as error:
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            raise HandlerError(f"agent {self.name!r} returned what its type does not allow: {reason}") from None

    async def open(self, run: Run, view: StateView) -> O:
        """Run the handler; its coroutine is the main task of *run*."""
        model, loaded = self.state.load(view) if self.state else (None, {})
        if self.state is not None and model is not None:
            shape = self.state
            run.collect = lambda: list(shape.changes(model, loaded))
        return await self.handler(Context(run, model), self.parse(run.invocation.input))

    def __call__(self, request: I) -> Coroutine[Any, Any, O]:
        """Invoke a child and wait for what it returns. Its ID derives from the parent's and the step.

        Raises:
            AgentDeadlock: The call chain comes back to an instance that waits for it.
            ChildFailed: It failed, was cancelled or refused.
            InvalidInput: The input does not fit.
        """
        return self._child("child", request)

    def start(self, request: I) -> Coroutine[Any, Any, str]:
        """Invoke a child without waiting for it; gives its invocation ID."""
        return self._child("start-child", request)

    async def _child(self, kind: str, request: I) -> Any:
        run = current_run()
        if run is None:
            raise ConfigurationError(
                f"agent {self.name!r} was called outside of a handler; submit it with Client.submit, "
                f"or test it with streams.testing"
            )
        key, data = self.encode_input(request)
        return await run.request(kind, agent_id(self.name, key), data, ChildSpec(self))


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A child invocation as a step of its parent."""

    agent: Agent[Any, Any]

    def resolve(self, completion: Completion) -> Any:
        """Return the child's value (its ID when it was only started), or raise why there is none."""
        if completion.status != "ok":
            if completion.error_type == AgentDeadlock.__name__:
                raise AgentDeadlock(completion.error_message)
            if completion.kind == "child" and completion.cause:
                raise ChildFailed(completion.cause, completion.error_type, completion.error_message)
            raise named(completion.error_type)(completion.error_message)
        if completion.kind == "start-child":
            return orjson.loads(completion.value or b"null")
        return self.agent.output.validate_json(completion.value or b"null")
