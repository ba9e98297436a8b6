"""A model as it was declared: pool and fallback; and what it is inside a handler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, overload

import orjson
from pydantic import TypeAdapter, ValidationError

from streams.agents.outcome import Failure, Outcome
from streams.agents.run import current_run
from streams.agents.signature import explain
from streams.errors import ConfigurationError, HandlerError, InvalidInput, ModelRefused, named
from streams.llm.messages import Message, Reply, Tokens, ToolRequest
from streams.records.compiled import compile_maker
from streams.records.journal import Completion
from streams.tools.tool import Tool

T = TypeVar("T")

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
SHOWN_CHARACTERS = 200
_make_tokens = compile_maker(Tokens)
_make_reply: Callable[..., Reply[Any]] = compile_maker(Reply)


class Model:
    """A declared model; `chat` is a durable step inside a handler.

    Attributes:
        name: Also the name of its pool in the settings, unless *pool* says otherwise.
    """

    def __init__(
        self, name: str, *, pool: str, fallback: Callable[..., Any], max_output_tokens: int, max_wait_s: float | None
    ) -> None:
        self.name = name
        self.pool = pool
        self.fallback = fallback
        self.max_output_tokens = max_output_tokens
        self.max_wait_s = max_wait_s
        self.dependency = f"llm:{pool}"

    @overload
    async def chat(
        self,
        messages: Sequence[Message] | str,
        *,
        tools: Sequence[Tool[Any, Any]] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> Reply[str]: ...
    @overload
    async def chat(
        self,
        messages: Sequence[Message] | str,
        *,
        output: type[T],
        tools: Sequence[Tool[Any, Any]] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> Reply[T]: ...
    async def chat(
        self,
        messages: Sequence[Message] | str,
        *,
        output: Any = str,
        tools: Sequence[Tool[Any, Any]] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> Reply[Any]:
        """Ask the model. Held while the pool is at its limit, never rejected.

        Args:
            messages: The conversation; a text is one message of the user.
            output: What the answer must be; a pydantic model is asked for as structured output.
            tools: Tools that the model may ask for.
            max_output_tokens: Bound on the answer; the model's declaration has the default.
            timeout: Seconds to wait for the answer before the fallback applies; by default until the deadline.
            stream: Send pieces of the answer to the `tokens` topic while it is written.

        Raises:
            ModelRefused: The provider refused the request, with its words.
            BudgetExceeded: The call would pass the invocation's budget.
            ConfigurationError: Called outside of a handler.
        """
        run = current_run()
        if run is None:
            raise ConfigurationError(
                f"model {self.name!r} was asked outside of a handler; ask it in one, or test with streams.testing"
            )
        if isinstance(messages, str):
            conversation: list[dict[str, Any]] = [{"role": "user", "content": messages}]
        else:
            conversation = [message.to_wire() for message in messages]
        adapter = _adapter(output)
        bound = max_output_tokens or self.max_output_tokens
        body: dict[str, Any] = {
            "messages": conversation,
            "max_output_tokens": bound,
        }
        if temperature is not None:
            body["temperature"] = temperature
        if tools:
            body["tools"] = [describe(tool) for tool in tools]
        if output is not str:
            body["schema"] = _schema(output)
        payload = orjson.dumps(body)
        by_name = {tool.name: tool for tool in tools}
        spec: ChatSpec[Any] = ChatSpec(self, by_name, adapter, output is str, bound, timeout or self.max_wait_s, stream)
        reply: Reply[Any] = await run.request("llm", self.name, payload, spec)
        return reply


@dataclass(slots=True, eq=False)
class ChatSpec(Generic[T]):
    """One `chat` as a step of its handler; nothing changes it. Made for each step, so that freezing it would count."""

    model: Model
    tools: dict[str, Tool[Any, Any]]
    adapter: TypeAdapter[Any]
    plain: bool
    max_output_tokens: int
    timeout_s: float | None
    stream: bool

    @property
    def dependency(self) -> str:
        """Name of the pool's breaker."""
        return self.model.dependency

    @property
    def lane(self) -> str:
        """Lane of the pool's requests, so that a pool at its limit stands in no other one's way."""
        return self.model.pool

    def resolve(self, completion: Completion) -> Reply[Any]:
        """Return the reply that a completion carries, or raise the error that crosses to the agent."""
        if completion.status == "invalid":
            raise ModelRefused(completion.error_message)
        if completion.status == "raised":
            raise named(completion.error_type)(completion.error_message)
        value = orjson.loads(completion.value or b"{}")
        usage = _make_tokens(completion.input_tokens, completion.output_tokens, completion.cost)
        calls = tuple([ToolRequest(**call) for call in value.get("tool_calls", ())])
        text = value.get("text", "")
        reason = value.get("finish_reason", "stop")
        if completion.degraded:
            output, problem = self._parse_fallback(value.get("output"))
            text = text or (output if isinstance(output, str) else "")
        else:
            output, problem = self._parse(text, calls, reason)
        return _make_reply(
            text, calls, usage, reason, completion.degraded, completion.cause, output, problem, self._run_tool
        )

    def _parse(self, text: str, calls: tuple[ToolRequest, ...], reason: str) -> tuple[Any, str]:
        if calls:
            return None, f"model {self.model.name!r} asks for tools first; see reply.tool_calls and run_tools()"
        if self.plain:
            return text, ""
        try:
            return self.adapter.validate_json(text), ""
        except ValidationError as error:
            return None, f"model {self.model.name!r} {self._what_is_wrong(text, reason, error)}"

    def _what_is_wrong(self, text: str, reason: str, error: ValidationError) -> str:
        if reason == "length":
            return f"was cut off after {self.max_output_tokens} tokens (max_output_tokens); raise it, or ask for less"
        if reason == "content_filter":
            return "was stopped by the provider's content filter before its answer was complete"
        if not text.strip():
            return f"answered nothing (finish_reason {reason!r}), where an answer of a type was asked for"
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            return f"did not answer in JSON: {text[:SHOWN_CHARACTERS]!r}"
        return f"did not answer as asked: {explain(error)}"

    def _parse_fallback(self, value: Any) -> tuple[Any, str]:
        try:
            return self.adapter.validate_python(value), ""
        except ValidationError:
            return None, (
                f"the fallback of model {self.model.name!r} is {value!r}, not what chat(output=...) asks for; "
                "look at reply.degraded first, or declare a fallback_fn that returns it"
            )

    async def _run_tool(self, request: ToolRequest) -> str:
        tool = self.tools.get(request.name)
        if tool is None:
            return f"error: there is no tool {request.name!r}; there are {', '.join(self.tools) or 'none'}"
        run = current_run()
        assert run is not None
        try:
            arguments = tool.arguments.decode(request.arguments.encode())
            payload = tool.arguments.encode((), arguments)
            outcome: Outcome[Any] = await run.request("tool", tool.name, payload, tool)
        except (InvalidInput, HandlerError) as error:
            return f"error: {type(error).__name__}: {error}"
        except tool.raises as error:
            return f"error: {type(error).__name__}: {error}"
        value = "null" if outcome.value is None else tool.returns.dump_json(outcome.value).decode()
        return f'{{"the tool failed": "{outcome.cause}", "fallback": {value}}}' if outcome.degraded else value

    def fall_back(self, failure: Failure, payload: bytes) -> bytes:
        """Return the JSON of the reply that the declared fallback makes."""
        value = self.model.fallback(failure)
        if hasattr(value, "model_dump"):
            value = value.model_dump(mode="json")
        return orjson.dumps(
            {"text": value if isinstance(value, str) else orjson.dumps(value).decode(), "output": value}
        )

    def deadline_s(self, made_at_s: float, invocation_deadline_s: float) -> float:
        """Return when the engine stops waiting for an answer."""
        return min(made_at_s + self.timeout_s, invocation_deadline_s) if self.timeout_s else invocation_deadline_s

    def input_tokens(self, payload: bytes) -> int:
        """Return an estimate of the request's input tokens, for budgets and limits."""
        return len(payload) // CHARACTERS_PER_TOKEN + TOKENS_PER_MESSAGE


@cache
def _adapter(output: Any) -> TypeAdapter[Any]:
    """Return the adapter of an output type; making one takes a hundred times as long as using it."""
    return TypeAdapter(output)


@cache
def _schema(output: Any) -> dict[str, Any]:
    return _adapter(output).json_schema()


def describe(tool: Tool[Any, Any]) -> dict[str, Any]:
    """Return a tool as model providers are told of it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.arguments.json_schema(),
        },
    }
