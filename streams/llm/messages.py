"""What is said to models and what they say: messages, tool requests, replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from streams.errors import HandlerError, InvalidInput, UnusableAnswer

T = TypeVar("T")


class ToolRequest(BaseModel):
    """A model's wish to have a tool called.

    Attributes:
        arguments: JSON object, as the model wrote it.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    arguments: str


class Message(BaseModel):
    """One message of a conversation.

    Attributes:
        tool_calls: With role `assistant`, the tools that the model wants called.
        tool_call_id: With role `tool`, which request this answers.
    """

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolRequest, ...] = ()
    tool_call_id: str = ""

    def to_wire(self) -> dict[str, Any]:
        """Return the message in the form of the OpenAI chat-completions protocol."""
        wire: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            wire["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        if self.tool_call_id:
            wire["tool_call_id"] = self.tool_call_id
        return wire


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one or more model calls used."""

    input: int = 0
    output: int = 0
    cost: float = 0.0

    @property
    def total(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What a model answered.

    Attributes:
        text: The answer as text; empty when the model only asks for tools.
        tool_calls: Tools that the model wants called; `run_tools` does it.
        finish_reason: `stop`, `tool_calls`, `length` (cut off at the bound), `content_filter`, or the provider's word.
        degraded: The answer is the declared fallback.
        cause: Why, when degraded.
    """

    text: str
    tool_calls: tuple[ToolRequest, ...] = ()
    usage: Tokens = field(default_factory=Tokens)
    finish_reason: str = "stop"
    degraded: bool = False
    cause: str = ""
    _output: Any = None
    _problem: str = ""
    _run_tool: Callable[[ToolRequest], Awaitable[str]] | None = None

    @property
    def output(self) -> T:
        """The answer as the type that `chat(output=...)` named.

        Raises:
            UnusableAnswer: It is cut off, empty, not JSON, or of another type.
            HandlerError: There is none: the model asks for tools, or the fallback is of another type.
        """
        if self._problem:
            raise UnusableAnswer(self._problem) if self._answered else HandlerError(self._problem)
        output: T = self._output
        return output

    @property
    def _answered(self) -> bool:
        """The model has said something itself, and asks for nothing first."""
        return not self.degraded and not self.tool_calls

    @property
    def message(self) -> Message:
        """The answer as a message, to go on with the conversation."""
        return Message(role="assistant", content=self.text, tool_calls=self.tool_calls)

    async def run_tools(self) -> list[Message]:
        """Call the tools that the model asked for, side by side, and return the messages that tell it, in its order.

        Errors and fallbacks are told to the model; nothing is raised for them.

        Raises:
            InvalidInput: The model asked for a tool that it was not given.
        """
        run_tool = self._run_tool
        if run_tool is None:
            if not self.tool_calls:
                return []
            raise InvalidInput(f"the model asked for tool {self.tool_calls[0].name!r} but was given none")
        answers = await asyncio.gather(*(run_tool(request) for request in self.tool_calls))
        return [
            Message(role="tool", tool_call_id=request.id, content=answer)
            for request, answer in zip(self.tool_calls, answers, strict=True)
        ]
