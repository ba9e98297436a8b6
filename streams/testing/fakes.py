"""Fakes of tools and models: a test's functions in the place of workers and providers, and a record of their calls."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from streams.app import App
from streams.errors import ConfigurationError
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.function import FunctionProvider
from streams.llm.provider_errors import ProviderError, Refused
from streams.records.steps import LlmRequest, LlmResult, ToolCall, ToolResult
from streams.tools.attempts import Runner
from streams.tools.threads import Threads
from streams.tools.tool import Tool

FakeTool = Callable[..., Any]
FakeModel = str | ChatResponse | Callable[[ChatRequest], str | ChatResponse | Awaitable[str | ChatResponse]]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a fake has had.

    Attributes:
        name: Of the tool or model.
        arguments: Keyword arguments of a tool; the body of a request to a model.
        step: Number of the step within the invocation.
        at_s: Virtual seconds since the simulation began.
    """

    name: str
    arguments: Mapping[str, Any]
    invocation: str
    step: int
    at_s: float


class Fakes:
    """Answers calls as a worker or a dispatcher would.

    Args:
        seconds: Virtual seconds that a call takes, by tool or model.

    Attributes:
        calls: What was called, in order.
        interrupted: Tools whose next call ends its worker after the effect.

    Raises:
        ConfigurationError: A name that the app does not have.
    """

    def __init__(
        self,
        app: App,
        tools: Mapping[str, FakeTool],
        models: Mapping[str, FakeModel],
        seconds: Mapping[str, float],
    ) -> None:
        _check_names(app, tools, models, seconds)
        self.calls: list[Call] = []
        self.interrupted: list[str] = []
        self._app = app
        self._tools = dict(tools)
        self._models = {name: _provider(name, fake) for name, fake in models.items()}
        self._seconds = dict(seconds)
        self._runner = Runner(
            "simulation",
            threads=Threads(0),
            random=Random(0),
            backoff_s=1e-6,
            backoff_ceiling_s=1e-6,
            clock=lambda: 0.0,
        )

    async def call_tool(self, call: ToolCall, at_s: float) -> tuple[float, ToolResult]:
        """Return how long a call takes and what comes of it.

        Raises:
            ConfigurationError: The tool has no fake.
        """
        declared, fake = self._app.tools[call.tool], self._tools.get(call.tool)
        if fake is None:
            raise ConfigurationError(
                f"{call.invocation} called tool {call.tool!r}, which has no fake; give tools={{{call.tool!r}: ...}}, "
                f"or {{{call.tool!r}: {call.tool}.local}} for the declared one"
            )
        tool = _with_function(declared, fake)
        result = await self._run_tool(tool, call, at_s)
        if call.tool in self.interrupted:
            self.interrupted.remove(call.tool)
            if call.effect == "at-most-once":
                result = self._runner.result(call, "failed", cause="interrupted", attempts=0)
            else:
                result = await self._run_tool(tool, call, at_s)
        takes = self._seconds.get(call.tool, 0.0)
        if takes > declared.policy.timeout_s:
            takes = declared.policy.timeout_s
            result = self._runner.result(call, "failed", cause="timeout", error_message=f"no answer within {takes:g} s")
        return takes, result

    async def _run_tool(self, tool: Tool[..., Any], call: ToolCall, at_s: float) -> ToolResult:
        self._note(call.tool, call.arguments, call, at_s)
        arguments = self._runner.parse(tool, call)
        return arguments if isinstance(arguments, ToolResult) else await self._runner.run(tool, call, arguments)

    async def ask_model(self, request: LlmRequest, at_s: float) -> tuple[float, LlmResult]:
        """Return how long a request takes and what comes of it.

        Raises:
            ConfigurationError: The model has no fake.
        """
        provider = self._models.get(request.model)
        if provider is None:
            raise ConfigurationError(
                f"{request.invocation} asked model {request.model!r}, which has no fake; "
                f"give models={{{request.model!r}: 'what it says'}}"
            )
        self._note(request.model, request.request, request, at_s)
        step = (request.invocation, request.incarnation, request.step, request.model)
        try:
            answer = await provider.complete(ChatRequest.from_payload(request.request, model=request.model), "", 60.0)
        except Refused as error:
            result = LlmResult(*step, "invalid", error_message=str(error))
        except ProviderError as error:
            result = LlmResult(*step, "failed", cause="outage", error_message=str(error))
        else:
            body = {
                "text": answer.text,
                "tool_calls": [wish.model_dump() for wish in answer.tool_calls],
                "finish_reason": answer.finish_reason,
            }
            used = answer.usage
            result = LlmResult(
                *step, "ok", orjson.dumps(body),
                input_tokens=used.input_tokens if used else 0, output_tokens=used.output_tokens if used else 0,
            )  # fmt: skip
        return self._seconds.get(request.model, 0.0), result

    def _note(self, name: str, arguments: bytes, call: ToolCall | LlmRequest, at_s: float) -> None:
        self.calls.append(Call(name, orjson.loads(arguments), call.invocation, call.step, at_s))


def _with_function(tool: Tool[..., Any], fake: FakeTool) -> Tool[..., Any]:
    async def call(**arguments: Any) -> Any:
        value = fake(**arguments)
        return await value if isinstance(value, Awaitable) else value

    other = copy.copy(tool)
    other.function = call
    return other


def _provider(name: str, fake: FakeModel) -> FunctionProvider:
    return FunctionProvider(fake if callable(fake) else lambda _: fake, name)


def _check_names(app: App, tools: Mapping[str, Any], models: Mapping[str, Any], seconds: Mapping[str, Any]) -> None:
    pools = {model.pool for model in app.models.values()}
    for what, given, known in (
        ("tool", tools, set(app.tools)),
        ("model", models, pools),
        ("tool or model", seconds, pools | set(app.tools)),
    ):
        if unknown := sorted(given.keys() - known):
            raise ConfigurationError(
                f"app {app.name!r} has no {what} {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}"
            )
