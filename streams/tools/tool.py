"""A tool as it was declared: function, effect, fallback, limits; and what it is inside a handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar

import orjson
from pydantic import TypeAdapter

from streams.agents.outcome import Failure, Outcome
from streams.agents.run import Run, current_run
from streams.agents.signature import CallArguments, purpose
from streams.errors import ConfigurationError, HandlerError, InvalidInput
from streams.records.compiled import compile_maker
from streams.records.journal import Completion
from streams.records.steps import Effect

P = ParamSpec("P")
R = TypeVar("R")

_make_outcome = compile_maker(Outcome)

inside_tool: ContextVar[str] = ContextVar("inside_tool", default="")
"""Name of the tool that is being run by a worker in this context."""


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """How calls of a tool are made.

    Attributes:
        timeout_s: Seconds for a call, its retries included.
        effect: `read` may be retried and hedged, `idempotent` retried with the same key, `at-most-once` never.
        max_wait_s: Seconds that a call may wait for a worker before the fallback applies.
        attempts: Most attempts within the timeout; 1 for at-most-once.
        concurrency: Calls at a time in one worker process.
        rate: Calls per second, all workers together; None for no limit.
        lane: Topic suffix of its calls; empty for the shared topic.
        hedge_s: Seconds after which a `read` call that has not ended is made a second time beside the first.
    """

    timeout_s: float
    effect: Effect
    max_wait_s: float = 60.0
    attempts: int = 3
    concurrency: int = 32
    rate: float | None = None
    lane: str = ""
    hedge_s: float | None = None


class Tool(Generic[P, R]):
    """A declared tool. Inside a handler, calling it is a durable step; outside, it is the plain function.

    Attributes:
        name: Its breaker is `tool:<name>`.
        raises: Error classes that cross to the agent.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        policy: ToolPolicy,
        arguments: CallArguments,
        returns: TypeAdapter[Any],
        fallback: Callable[..., Any],
        raises: tuple[type[BaseException], ...] = (),
        description: str = "",
    ) -> None:
        self.function = function
        self.name = name
        self.policy = policy
        self.arguments = arguments
        self.returns = returns
        self.raises = raises
        self.description = description or purpose(function)
        self.dependency = f"tool:{name}"
        self.lane = policy.lane
        self._fallback = fallback
        self._raised = {kind.__name__: kind for kind in raises}
        self.__name__ = name
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the tool; see the class."""
        if (run := current_run()) is not None:
            return self._value(run, args, kwargs)
        if caller := inside_tool.get():
            raise ConfigurationError(
                f"tool {caller!r} called tool {self.name!r}; a call between tools is not durable, "
                f"so use {self.name}.local(...), the plain function"
            )
        return self.local(*args, **kwargs)

    @cached_property
    def local(self) -> Callable[P, Coroutine[Any, Any, R]]:
        """The plain function, as a coroutine function: no journal, no retry, no breaker."""
        if inspect.iscoroutinefunction(self.function):
            return self.function

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            value: R = self.function(*args, **kwargs)
            return value

        return call

    async def outcome(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R]:
        """Call the tool and return its value together with how it came about.

        Raises:
            InvalidInput: The arguments do not fit.
            ConfigurationError: Called outside of a handler.
        """
        run = current_run()
        if run is None:
            raise ConfigurationError(
                f"{self.name}.outcome() was called outside of a handler; call {self.name}() there, the plain function"
            )
        outcome: Outcome[R] = await run.request("tool", self.name, self.arguments.encode(args, kwargs), self)
        return outcome

    async def _value(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        outcome: Outcome[R] = await run.request("tool", self.name, self.arguments.encode(args, kwargs), self)
        return outcome.value

    # -- what the engine asks ------------------------------------------------------------------------------------------

    def resolve(self, completion: Completion) -> Outcome[R]:
        """Return the outcome that a completion carries, or raise the error that crosses to the agent."""
        if completion.status == "raised":
            raise self._raise(completion)
        if completion.status == "invalid":
            raise InvalidInput(completion.error_message)
        value = (
            self.returns.validator.validate_json(completion.value or b"null") if completion.value != b"null" else None
        )
        return _make_outcome(value, completion.degraded, completion.cause, completion.attempts, completion.elapsed_s)  # type: ignore[arg-type]

    def _raise(self, completion: Completion) -> BaseException:
        kind = self._raised.get(completion.error_type)
        if kind is None:
            return HandlerError(f"tool {self.name!r}: {completion.error_type}: {completion.error_message}")
        arguments = orjson.loads(completion.value) if completion.value else [completion.error_message]
        return kind(*arguments)

    def fall_back(self, failure: Failure, payload: bytes) -> bytes:
        """Return the JSON of what the fallback gives for this failure and these arguments."""
        value = self._fallback(failure, **self.arguments.decode(payload))
        return b"null" if value is None else self.returns.dump_json(self.returns.validate_python(value))

    def deadline_s(self, made_at_s: float, invocation_deadline_s: float) -> float:
        """Return when the engine stops waiting for an answer."""
        return min(made_at_s + self.policy.max_wait_s + self.policy.timeout_s, invocation_deadline_s)
