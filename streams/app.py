"""App: where a user declares agents, tools and models.

Declaring only records; nothing connects or runs. What is declared wrongly raises here, at import, with file and line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, ParamSpec, Protocol, TypeVar, overload

from pydantic import BaseModel, TypeAdapter, ValidationError

from streams.agents.agent import Agent, Handler
from streams.agents.budget import Budget
from streams.agents.outcome import Failure
from streams.agents.signature import Arguments, Place, explain, hints_of, place_of_caller, returned
from streams.agents.state import StateShape
from streams.errors import ConfigurationError, DuplicateName, MissingFallback, NotInThisVersion, UnknownName
from streams.llm.model import Model
from streams.records.ids import check_part
from streams.records.steps import Effect
from streams.tools.tool import Tool, ToolPolicy

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class _Missing:
    """Tells a fallback of None from no fallback."""


_MISSING: Final = _Missing()


class ToolDecorator(Protocol[F_co]):
    """What `app.tool(...)` gives: turns a function into a `Tool` whose calls return its type or its fallback's."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Tool[P, R | F_co]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Tool[P, R | F_co]: ...


class AgentDecorator(Protocol):
    """What `app.agent(...)` gives."""

    def __call__(self, handler: Callable[[Any, I], Coroutine[Any, Any, O]]) -> Agent[I, O]: ...


class App:
    """The declarations of one application.

    Args:
        name: The namespace of its topics, unless the settings say otherwise: letters, digits, `-` and `_`.

    Raises:
        ConfigurationError: A name that topics cannot carry.

    Example:
        >>> app = App("payments")
        >>> @app.tool(timeout=5, effect="read", fallback=None)
        ... async def account_status(customer: str) -> str: ...
    """

    def __init__(self, name: str) -> None:
        if not name or not all(c.isalnum() or c in "-_" for c in name) or not name.isascii() or len(name) > 100:
            raise ConfigurationError(
                f"app name {name!r} cannot name topics; use up to 100 letters, digits, '-' and '_'"
            )
        self.name = name
        self.agents: dict[str, dict[str, Agent[Any, Any]]] = {}
        self.tools: dict[str, Tool[..., Any]] = {}
        self.models: dict[str, Model] = {}

    # -- tools ---------------------------------------------------------------------------------------------------------

    @overload
    def tool(
        self,
        *,
        timeout: float,
        effect: Effect,
        fallback: F,
        name: str | None = None,
        raises: Sequence[type[BaseException]] = (),
        rate: str | None = None,
        concurrency: int = 32,
        attempts: int = 3,
        max_wait: float = 60.0,
        lane: str = "",
    ) -> ToolDecorator[F]: ...
    @overload
    def tool(
        self,
        *,
        timeout: float,
        effect: Effect,
        fallback_fn: Callable[..., F],
        name: str | None = None,
        raises: Sequence[type[BaseException]] = (),
        rate: str | None = None,
        concurrency: int = 32,
        attempts: int = 3,
        max_wait: float = 60.0,
        lane: str = "",
    ) -> ToolDecorator[F]: ...
    def tool(
        self,
        *,
        timeout: float,
        effect: Effect,
        fallback: Any = _MISSING,
        fallback_fn: Callable[..., Any] | None = None,
        name: str | None = None,
        raises: Sequence[type[BaseException]] = (),
        rate: str | None = None,
        concurrency: int = 32,
        attempts: int = 3,
        max_wait: float = 60.0,
        lane: str = "",
    ) -> Any:
        """Declare a tool.

        Args:
            timeout: Seconds for a call, its retries included.
            effect: What may be done after a failure or a crash: `read` and `idempotent` calls are retried,
                `at-most-once` calls never; after a crash their outcome is `interrupted` and the fallback applies.
            fallback: What callers get instead when the tool fails; None is a value.
            fallback_fn: Or a quick synchronous function of the failure and the call's arguments that makes it.
            name: By default the function's.
            raises: Errors that are answers: they cross to the agent as their class, are not retried, and are a
                success for the breaker.
            rate: Bound on calls such as `50/s` or `600/min`.
            concurrency: Calls at a time in one worker process.
            attempts: Most attempts within the timeout.
            max_wait: Seconds that a call may wait for a worker before the fallback applies.
            lane: Topic of its own for its calls, so that its backlog stands in nobody's way.

        Raises:
            MissingFallback: Neither or both kinds of fallback are given.
            DuplicateName: The app has a tool of that name.
            ConfigurationError: A bound outside its range, a fallback of another type than the tool returns.
        """
        place = place_of_caller()

        def declare(function: Callable[..., Any]) -> Tool[..., Any]:
            called = name or function.__name__
            self._claim("tool", called, self.tools, place)
            if (fallback is _MISSING) == (fallback_fn is None):
                raise MissingFallback(_fallback_problem(f"tool {called!r}", place, both=fallback_fn is not None))
            policy = ToolPolicy(timeout, effect, max_wait, attempts, concurrency, _rate(rate, called, place), lane)
            _check_policy(policy, called, place)
            returns = returned(hints_of(function, place))
            if fallback_fn is None:
                _check_fallback(returns, fallback, called, place)
            tool: Tool[..., Any] = Tool(
                function,
                name=called,
                policy=policy,
                arguments=Arguments(function, place),
                returns=returns,
                fallback=fallback_fn or _constant(fallback),
                raises=tuple(raises),
            )
            self.tools[called] = tool
            return tool

        return declare

    def mcp(self, *_: Any, **__: Any) -> Any:
        """Declare the tools of an MCP server."""
        raise NotInThisVersion("app.mcp() is not in this version; declare an @app.tool that calls the MCP client")

    def http_tool(self, *_: Any, **__: Any) -> Any:
        """Declare a tool that is an HTTP operation."""
        raise NotInThisVersion("app.http_tool() is not in this version; declare an @app.tool that makes the request")

    # -- models --------------------------------------------------------------------------------------------------------

    def model(
        self,
        name: str,
        *,
        fallback: Any = _MISSING,
        fallback_fn: Callable[[Failure], Any] | None = None,
        pool: str | None = None,
        max_output_tokens: int = 1_024,
        max_wait: float | None = None,
    ) -> Model:
        """Declare a model.

        Args:
            name: How the app calls it.
            fallback: What callers get when it cannot answer.
            fallback_fn: Or a function of the failure that makes it.
            pool: The pool of the settings (`llm.pools`) that serves it; by default of the same name.
            max_output_tokens: Bound on an answer, unless the call has its own.
            max_wait: Seconds that a request may be held; by default until the invocation's deadline.

        Raises:
            MissingFallback: Neither or both kinds of fallback are given.
            DuplicateName: The app has a model of that name.
        """
        place = place_of_caller()
        self._claim("model", name, self.models, place)
        if (fallback is _MISSING) == (fallback_fn is None):
            raise MissingFallback(_fallback_problem(f"model {name!r}", place, both=fallback_fn is not None))
        if max_output_tokens < 1:
            raise ConfigurationError(f"{place}: max_output_tokens {max_output_tokens} of model {name!r} is below 1")
        model = Model(
            name,
            pool=pool or name,
            fallback=fallback_fn or _constant(fallback),
            max_output_tokens=max_output_tokens,
            max_wait_s=max_wait,
        )
        self.models[name] = model
        return model

    # -- agents --------------------------------------------------------------------------------------------------------

    def agent(
        self,
        *,
        key: str | Callable[[Any], str],
        state: type[BaseModel] | None = None,
        name: str | None = None,
        budget: Budget | None = None,
        version: str = "1",
        concurrent: bool = False,
    ) -> AgentDecorator:
        """Declare an agent: an `async def` function of a `Context` and one input.

        Args:
            key: The field of the input, or a function of it, that says which instance it is for.
            state: Model of an instance's state; every field needs a default.
            name: By default the function's.
            budget: What one invocation may spend.
            version: Journaled with each invocation; two versions of one agent can be declared side by side, new
                invocations start with the one declared last.
            concurrent: Invocations of one instance run beside each other and only read state.

        Raises:
            DuplicateName: The app has this agent in this version.
            ConfigurationError: The function is not `async def`, has other parameters, or a key field that is missing.
        """
        place = place_of_caller()

        def declare(handler: Handler[Any, Any]) -> Agent[Any, Any]:
            called = name or handler.__name__
            _check_name("agent", called, place)
            versions = self.agents.setdefault(called, {})
            if version in versions:
                raise DuplicateName(f"{place}: agent {called!r} has a version {version!r} already; give another one")
            request = _request_type(handler, called, place)
            versions[version] = Agent(
                name=called,
                handler=handler,
                key=_key(key, request, called, place),
                input=TypeAdapter(request),
                output=returned(hints_of(handler, place)),
                state=StateShape(state) if state else None,
                budget=budget or Budget(),
                version=version,
                concurrent=concurrent,
                description=inspect.getdoc(handler) or "",
            )
            return versions[version]

        return declare

    def react(self, name: str, **_: Any) -> Any:
        """Declare a ready-made ReAct agent."""
        raise NotInThisVersion(
            f"app.react({name!r}) is not in this version; declare an @app.agent that loops over model.chat(tools=...) "
            "and reply.run_tools()"
        )

    def latest(self, name: str) -> Agent[Any, Any]:
        """Return the version of an agent that new invocations start with.

        Raises:
            UnknownName: The app has no agent of that name.
        """
        versions = self.agents.get(name)
        if not versions:
            raise UnknownName(f"app {self.name!r} has no agent {name!r}; it has {', '.join(self.agents) or 'none'}")
        return next(reversed(versions.values()))

    def lanes(self) -> dict[str, tuple[str, ...]]:
        """Return the lanes that the declarations ask for, by kind of topic."""
        tools = tuple(sorted({tool.policy.lane for tool in self.tools.values() if tool.policy.lane}))
        return {"tool-calls": tools} if tools else {}

    def _claim(self, what: str, name: str, taken: dict[str, Any], place: Place) -> None:
        _check_name(what, name, place)
        if name in taken:
            raise DuplicateName(f"{place}: app {self.name!r} has a {what} {name!r} already; give it another name=")


def _check_name(what: str, name: str, place: Place) -> None:
    try:
        check_part(f"{what} name", name)
    except Exception as error:
        raise ConfigurationError(f"{place}: {error}") from None


def _fallback_problem(what: str, place: Place, *, both: bool) -> str:
    if both:
        return f"{place}: {what} declares fallback= and fallback_fn=; keep one"
    return (
        f"{place}: {what} declares no fallback; say what callers get when it fails: "
        "fallback=<value> (None is a value) or fallback_fn=<function of the failure>"
    )


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _check_fallback(returns: TypeAdapter[Any], fallback: Any, name: str, place: Place) -> None:
    if fallback is None:
        return
    try:
        returns.validate_python(fallback)
    except ValidationError as error:
        raise ConfigurationError(
            f"{place}: fallback of tool {name!r} is not what the tool returns: {explain(error)}"
        ) from None


def _check_policy(policy: ToolPolicy, name: str, place: Place) -> None:
    if policy.effect not in ("read", "idempotent", "at-most-once"):
        raise ConfigurationError(
            f"{place}: effect {policy.effect!r} of tool {name!r} is not one of 'read', 'idempotent', 'at-most-once'"
        )
    for what, value, least in (
        ("timeout", policy.timeout_s, 0.001),
        ("concurrency", policy.concurrency, 1),
        ("attempts", policy.attempts, 1),
        ("max_wait", policy.max_wait_s, 0),
    ):
        if value < least:
            raise ConfigurationError(f"{place}: {what} {value} of tool {name!r} is below {least}")


def _rate(text: str | None, name: str, place: Place) -> float | None:
    if text is None:
        return None
    amount, _, unit = text.partition("/")
    seconds = {"s": 1.0, "min": 60.0, "h": 3600.0}.get(unit.strip())
    try:
        rate = float(amount) / (seconds or 0.0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if rate <= 0:
        raise ConfigurationError(f"{place}: rate {text!r} of tool {name!r} is not like '50/s', '600/min' or '10/h'")
    return rate


def _request_type(handler: Callable[..., Any], name: str, place: Place) -> Any:
    if not inspect.iscoroutinefunction(handler):
        raise ConfigurationError(f"{place}: agent {name!r} is not an async function; declare it with `async def`")
    parameters = list(inspect.signature(handler).parameters.values())
    if len(parameters) != 2:
        raise ConfigurationError(
            f"{place}: agent {name!r} takes {len(parameters)} parameters; a handler takes a Context and its input"
        )
    hints = hints_of(handler, place)
    if parameters[1].name not in hints:
        raise ConfigurationError(f"{place}: input {parameters[1].name!r} of agent {name!r} has no type; annotate it")
    return hints[parameters[1].name]


def _key(key: str | Callable[[Any], str], request: Any, name: str, place: Place) -> Callable[[Any], str]:
    if callable(key):
        return key
    fields = getattr(request, "model_fields", None)
    if fields is not None and key not in fields:
        raise ConfigurationError(
            f"{place}: key {key!r} of agent {name!r} is not a field of {request.__name__}; it has {', '.join(fields)}"
        )
    if isinstance(request, type) and issubclass(request, dict):
        return lambda value: value[key]
    return lambda value: getattr(value, key)
