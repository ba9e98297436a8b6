"""App: where a user declares agents, tools and models.

Declaring only records; nothing connects or runs. What is declared wrongly raises here, at import, with file and line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, overload

from pydantic import BaseModel, TypeAdapter

from streams.agents.agent import Agent, Handler
from streams.agents.budget import Budget
from streams.agents.outcome import Failure
from streams.agents.react import MAX_TURNS, Conversation, React, request_model
from streams.agents.react import Tools as ReactTools
from streams.agents.signature import Arguments, CallArguments, Place, hints_of, place_of_caller, returned
from streams.agents.state import StateShape
from streams.declarations import (
    check_fallback,
    check_model,
    check_name,
    check_policy,
    constant,
    fallback_problem,
    import_extra,
    key_function,
    parse_rate,
    request_type,
)
from streams.errors import ConfigurationError, DuplicateName, MissingFallback, ToolRefused, UnknownName
from streams.llm.model import Model
from streams.records.steps import Effect
from streams.tools.connections import Connection
from streams.tools.tool import Tool, ToolPolicy

if TYPE_CHECKING:
    from streams.tools.mcp_tools import McpTools

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
        self.mcp_servers: dict[str, McpTools] = {}
        self.connections: list[Connection] = []

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
        hedge: float | None = None,
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
        hedge: float | None = None,
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
        hedge: float | None = None,
    ) -> Any:
        """Declare a tool.

        Args:
            timeout: Seconds for a call, its retries included.
            effect: What may be done after a failure or a crash: `read` and `idempotent` calls are retried,
                `at-most-once` calls never; after a crash their outcome is `interrupted` and the fallback applies.
            fallback: What callers get instead when the tool fails; None is a value.
            fallback_fn: Or a quick synchronous function of the failure and the call's arguments that makes it.
            name: By default the function's.
            raises: Errors that are answers: they cross as their class, are not retried, and no failure to the breaker.
            rate: Bound on calls such as `50/s` or `600/min`, retries included, for all workers together.
            concurrency: Calls at a time in one worker process.
            attempts: Most attempts within the timeout.
            max_wait: Seconds that a call may wait for a worker before the fallback applies.
            lane: Topic of its own for its calls, so that its backlog stands in nobody's way.
            hedge: Seconds after which a `read` is made a second time beside the first; budgeted as a retry is.

        Raises:
            MissingFallback: Neither or both kinds of fallback are given.
            DuplicateName: The app has a tool of that name.
            ConfigurationError: A bound outside its range, a fallback of another type than the tool returns.
        """
        place = place_of_caller()

        def declare(function: Callable[..., Any]) -> Tool[..., Any]:
            called = name or function.__name__
            per_s = parse_rate(rate, called, place)
            policy = ToolPolicy(timeout, effect, max_wait, attempts, concurrency, per_s, lane, hedge)
            returns = returned(hints_of(function, place))
            return self._add_tool(
                function, called, policy, Arguments(function, place), returns, (fallback, fallback_fn), place, raises
            )

        return declare

    def _add_tool(
        self,
        function: Callable[..., Any],
        name: str,
        policy: ToolPolicy,
        arguments: CallArguments,
        returns: TypeAdapter[Any],
        fallbacks: tuple[Any, Callable[..., Any] | None],
        place: Place,
        raises: Sequence[type[BaseException]],
    ) -> Tool[..., Any]:
        fallback, fallback_fn = fallbacks
        self._claim("tool", name, self.tools, place)
        if (fallback is _MISSING) == (fallback_fn is None):
            raise MissingFallback(fallback_problem(f"tool {name!r}", place, both=fallback_fn is not None))
        check_policy(policy, name, place)
        if fallback_fn is None:
            check_fallback(returns, fallback, name, place)
        tool: Tool[..., Any] = Tool(
            function,
            name=name,
            policy=policy,
            arguments=arguments,
            returns=returns,
            fallback=fallback_fn or constant(fallback),
            raises=tuple(raises),
        )
        self.tools[name] = tool
        return tool

    @overload
    def http_tool(
        self,
        name: str,
        *,
        timeout: float,
        effect: Effect,
        fallback: F,
        returns: type[R],
        url: str = "",
        method: str = "GET",
        parameters: Mapping[str, Any] | None = None,
        openapi: Mapping[str, Any] | str | Path | None = None,
        operation: str = "",
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_header: str = "Idempotency-Key",
        description: str = "",
        rate: str | None = None,
        concurrency: int = 32,
        attempts: int = 3,
        max_wait: float = 60.0,
        lane: str = "",
    ) -> Tool[..., R | F]: ...
    @overload
    def http_tool(
        self,
        name: str,
        *,
        timeout: float,
        effect: Effect,
        fallback_fn: Callable[..., F],
        returns: type[R],
        url: str = "",
        method: str = "GET",
        parameters: Mapping[str, Any] | None = None,
        openapi: Mapping[str, Any] | str | Path | None = None,
        operation: str = "",
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_header: str = "Idempotency-Key",
        description: str = "",
        rate: str | None = None,
        concurrency: int = 32,
        attempts: int = 3,
        max_wait: float = 60.0,
        lane: str = "",
    ) -> Tool[..., R | F]: ...
    def http_tool(
        self,
        name: str,
        *,
        timeout: float,
        effect: Effect,
        returns: Any,
        fallback: Any = _MISSING,
        fallback_fn: Callable[..., Any] | None = None,
        url: str = "",
        method: str = "GET",
        parameters: Mapping[str, Any] | None = None,
        openapi: Mapping[str, Any] | str | Path | None = None,
        operation: str = "",
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_header: str = "Idempotency-Key",
        description: str = "",
        rate: str | None = None,
        concurrency: int = 32,
        attempts: int = 3,
        max_wait: float = 60.0,
        lane: str = "",
    ) -> Any:
        """Declare a tool that is an HTTP operation: of a URL template, or of an OpenAPI document.

        4xx crosses to the agent as `ToolRefused`, 429 is a pause and no failure, 5xx is retried as `effect` allows.
        Needs the extra `http`.

        Args:
            returns: Type of the response's JSON; `str` for its text, `dict` for any object.
            url: Absolute, with `{name}` for arguments in its path.
            parameters: Name to type, or to (type, default), of the other arguments: they go to the query, for POST, PUT
                and PATCH into a JSON body.
            openapi: Instead of *url*: an OpenAPI 3 document, or the path of one (JSON or YAML).
            operation: Its `operationId`.
            base_url: Instead of the document's first server.
            headers: Sent with every request; `${NAME}` stands for the environment's variable NAME.
            idempotency_header: Carries the step's key where *effect* is `idempotent`; empty for none.
            description: What models are told; by default the document's.

        Raises:
            ConfigurationError: Neither or both of *url* and *openapi*, or something in them that cannot be sent.
            MissingFallback: Neither or both kinds of fallback are given.

        Example:
            >>> app = App("shop")
            >>> rate = app.http_tool(
            ...     "rate", url="https://rates.example/v1/{currency}", parameters={"day": (str, "today")},
            ...     returns=dict, timeout=5, effect="read", fallback=None,
            ... )
        """
        http = import_extra("http", "streams.tools.http_tool")
        place = place_of_caller()
        if bool(url) == (openapi is not None):
            raise ConfigurationError(f"{place}: tool {name!r} needs a url= or an openapi=, and not both")
        try:
            if openapi is None:
                made, arguments = http.by_template(name, url, method, parameters or {}, headers or {})
            else:
                made, arguments, told = http.by_document(name, openapi, operation, base_url, headers or {})
                description = description or told
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from None
        if effect == "idempotent":
            made = http.idempotent(made, idempotency_header)
        tool = http.HttpTool(
            made, arguments, description, text=returns is str, timeout_s=timeout, connections=concurrency
        )
        policy = ToolPolicy(timeout, effect, max_wait, attempts, concurrency, parse_rate(rate, name, place), lane)
        declared = self._add_tool(
            tool.function(name), name, policy, arguments, TypeAdapter(returns), (fallback, fallback_fn), place,
            (ToolRefused,),
        )  # fmt: skip
        self.connections.append(tool)
        return declared

    def mcp(
        self,
        name: str,
        *,
        timeout: float,
        effect: Effect,
        command: Sequence[str] = (),
        url: str = "",
        environment: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        manifest: str | Path | None = None,
        only: Sequence[str] | None = None,
        effects: Mapping[str, Effect] | None = None,
        fallback: Any = _MISSING,
        fallback_fn: Callable[..., Any] | None = None,
        fallbacks: Mapping[str, Any] | None = None,
        rate: str | None = None,
        concurrency: int = 32,
        attempts: int = 3,
        max_wait: float = 60.0,
        lane: str = "",
    ) -> McpTools:
        """Declare the tools of an MCP server; each is a tool of its own, `<name>_<tool>`, with breaker and fallback.

        They are those of the manifest, a file that `streams mcp discover` writes and you keep with your code: handlers
        that are run again must see the tools that they saw before, and nothing here waits for the server. Needs the
        extra `mcp`.

        Args:
            command: Starts a server that speaks on its standard input and output.
            url: Or the address of one that speaks streamable HTTP.
            environment: For *command*; `${NAME}` stands for a variable of the worker's environment.
            headers: For *url*; likewise.
            manifest: By default `<name>.mcp.json` beside the module that declares it.
            only: Which of the server's tools; all by default.
            effect: Of all its tools but those that *effects* names.
            fallback: What callers get instead when one fails; *fallbacks* has those of single tools.
            fallback_fn: Or a function of the failure and the arguments that makes it.

        Raises:
            MissingFallback: A tool has none.
            ConfigurationError: Neither or both of *command* and *url*, or a manifest that cannot be read.
        """
        mcp_server, mcp_tools = (import_extra("mcp", f"streams.tools.{part}") for part in ("mcp_server", "mcp_tools"))
        from streams.tools.schema_arguments import SchemaArguments

        place = place_of_caller()
        check_name("MCP server", name, place)
        if name in self.mcp_servers:
            raise DuplicateName(f"{place}: app {self.name!r} has an MCP server {name!r} already; give another name")
        connection = mcp_server.McpConnection(name, command=command, url=url, environment=environment, headers=headers)
        own, of_effect = fallbacks or {}, effects or {}
        bound = parse_rate(rate, name, place)

        def declare(found: Any) -> Tool[..., Any]:
            called = f"{name}_{found.name}"
            kind = of_effect.get(found.name, effect)
            policy = ToolPolicy(timeout, kind, max_wait, attempts, concurrency, bound, lane)
            given = (own[found.name], None) if found.name in own else (fallback, fallback_fn)
            arguments = SchemaArguments(called, found.arguments)
            function = connection.function(found, called)
            return self._add_tool(function, called, policy, arguments, TypeAdapter(Any), given, place, (ToolRefused,))

        path = Path(place.file).parent / (manifest or f"{name}.mcp.json")
        tools: McpTools = mcp_tools.McpTools(connection, path, declare, only)
        self.mcp_servers[name] = tools
        self.connections.append(connection)
        return tools

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
            raise MissingFallback(fallback_problem(f"model {name!r}", place, both=fallback_fn is not None))
        check_model(name, pool or name, max_output_tokens, place)
        model = Model(
            name,
            pool=pool or name,
            fallback=fallback_fn or constant(fallback),
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
            request = request_type(handler, called, place)
            return self._add_agent(
                called,
                handler,
                version,
                place,
                key=key_function(key, request, called, place),
                input=TypeAdapter(request),
                output=returned(hints_of(handler, place)),
                state=StateShape(state) if state else None,
                budget=budget or Budget(),
                concurrent=concurrent,
                description=inspect.getdoc(handler) or "",
            )

        return declare

    def react(
        self,
        name: str,
        *,
        key: str | Callable[[Any], str],
        instructions: str,
        model: Model,
        tools: ReactTools = (),
        input: type[BaseModel] | None = None,
        prompt: Callable[[Any], str] | None = None,
        output: Any = str,
        max_turns: int = MAX_TURNS,
        remember: int = 0,
        budget: Budget | None = None,
        version: str = "1",
    ) -> Agent[Any, Any]:
        """Declare a ready-made agent: it asks the model, calls the tools that the model wants side by side, asks again.

        Errors and fallbacks of tools are told to the model. A change of instructions or tools is a change of the
        handler: give it another version, so that invocations in flight end with what they began with.

        Args:
            key: The field of the input, or a function of it, that says which instance it is for.
            instructions: The system message.
            tools: Tools, or those of an MCP server, or both.
            input: Its input; by default a model with *key* and `message`, both text.
            prompt: Text of an input; by default its field `message`.
            output: What it returns: `str`, or a type that the model is asked for as structured output.
            max_turns: Most model calls of an invocation; in the last one the model is told to answer.
            remember: Messages of earlier invocations of the instance that are sent along.

        Raises:
            ConfigurationError: *max_turns* below 1, *remember* below 0, no field `message` and no *prompt*.

        Example:
            >>> app = App("shop")
            >>> fast = app.model("fast", fallback="A colleague will get back to you.")
            >>> support = app.react("support", key="customer", instructions="Help with orders.", model=fast)
        """
        place = place_of_caller()
        if max_turns < 1 or remember < 0:
            wrong, least = (f"max_turns {max_turns}", 1) if max_turns < 1 else (f"remember {remember}", 0)
            raise ConfigurationError(f"{place}: {wrong} of agent {name!r} is below {least}")
        if input is None and callable(key):
            raise ConfigurationError(f"{place}: agent {name!r} has a function for its key; say with input= of what")
        request = input or request_model(name, str(key))
        if prompt is None and "message" not in request.model_fields:
            raise ConfigurationError(
                f"{place}: input {request.__name__} of agent {name!r} has no field 'message'; give prompt="
            )
        spec = React(instructions, model, tools, prompt or attrgetter("message"), output, max_turns, remember)
        return self._add_agent(
            name,
            spec.handler(name),
            version,
            place,
            key=key_function(key, request, name, place),
            input=TypeAdapter(request),
            output=TypeAdapter(output),
            state=StateShape(Conversation) if remember else None,
            budget=budget or Budget(),
            description=instructions,
        )

    def _add_agent(self, name: str, handler: Any, version: str, place: Place, **declared: Any) -> Agent[Any, Any]:
        check_name("agent", name, place)
        versions = self.agents.setdefault(name, {})
        if version in versions:
            raise DuplicateName(f"{place}: agent {name!r} has a version {version!r} already; give another one")
        versions[version] = Agent(name=name, handler=handler, version=version, **declared)
        return versions[version]

    def latest(self, name: str) -> Agent[Any, Any]:
        """Return the version of an agent that new invocations start with.

        Raises:
            UnknownName: The app has no agent of that name.
        """
        versions = self.agents.get(name)
        if not versions:
            raise UnknownName(f"app {self.name!r} has no agent {name!r}; it has {', '.join(self.agents) or 'none'}")
        return next(reversed(versions.values()))

    def check_tools_known(self) -> None:
        """Make sure that the tools of every MCP server are pinned.

        Raises:
            ConfigurationError: A manifest is missing; says how to make it.
        """
        for tools in self.mcp_servers.values():
            len(tools)

    def lanes(self) -> dict[str, tuple[str, ...]]:
        """Return the lanes that the declarations ask for, by kind of topic."""
        tools = tuple(sorted({tool.policy.lane for tool in self.tools.values() if tool.policy.lane}))
        pools = tuple(sorted({model.pool for model in self.models.values()}))
        return {kind: lanes for kind, lanes in (("tool-calls", tools), ("llm-requests", pools)) if lanes}

    def _claim(self, what: str, name: str, taken: dict[str, Any], place: Place) -> None:
        check_name(what, name, place)
        if name in taken:
            raise DuplicateName(f"{place}: app {self.name!r} has a {what} {name!r} already; give it another name=")
