"""A ready-made agent that reasons and acts: it asks a model, calls the tools that it wants, and asks again.

Every model and tool call is a step as in any handler: durable, journaled, with breaker and fallback. Source of the
pattern: Yao et al., "ReAct: Synergizing Reasoning and Acting in Language Models", 2023.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, create_model

from streams.agents.context import Context
from streams.agents.state import Log
from streams.errors import HandlerError
from streams.llm.messages import Message
from streams.llm.model import Model
from streams.tools.tool import Tool

MAX_TURNS = 10
LAST_TURN = "No more tools can be called. Answer now, with what you know, and say what you could not find out."

Tools = Sequence[Tool[Any, Any] | Sequence[Tool[Any, Any]]]


class Conversation(BaseModel):
    """State of an agent that remembers: what was asked and answered, without the calls in between."""

    messages: Log[Message] = Log()


@dataclass(frozen=True, slots=True)
class React:
    """How a ReAct agent works.

    Attributes:
        prompt: Text of an input, as the user's message.
        output: What it returns; `str`, or a type that the model is asked for as structured output.
        max_turns: Most model calls of an invocation; in the last one the model is told to answer.
        remember: Messages of earlier invocations of the instance that are sent along.
    """

    instructions: str
    model: Model
    tools: Tools
    prompt: Callable[[Any], str]
    output: Any = str
    max_turns: int = MAX_TURNS
    remember: int = 0

    def handler(self, name: str) -> Callable[[Context[Any], Any], Awaitable[Any]]:
        """Return the handler, under the name of its agent."""

        async def react(ctx: Context[Any], request: Any) -> Any:
            return await self._run(ctx, request)

        react.__name__ = react.__qualname__ = name
        return react

    async def _run(self, ctx: Context[Any], request: Any) -> Any:
        asked = Message(role="user", content=self.prompt(request))
        messages = [Message(role="system", content=self.instructions)]
        if self.remember:
            messages += await ctx.state.messages.page(size=self.remember)
        messages.append(asked)
        tools = list(flat(self.tools))
        for turn in range(1, self.max_turns + 1):
            if turn == self.max_turns and tools and turn > 1:
                messages.append(Message(role="user", content=LAST_TURN))
            reply = await self.model.chat(messages, tools=tools, output=self.output)
            if not reply.tool_calls:
                if self.remember:
                    ctx.state.messages.append(asked)
                    ctx.state.messages.append(reply.message)
                return reply.text if self.output is str else reply.output
            if turn < self.max_turns:
                messages.append(reply.message)
                messages += await reply.run_tools()
        raise HandlerError(
            f"model {self.model.name!r} asked for tools in each of its {self.max_turns} turns (max_turns); raise "
            "max_turns, or say in the instructions when to stop"
        )


def flat(tools: Tools) -> Iterator[Tool[Any, Any]]:
    """Yield the tools, those of MCP servers among them; these are known only once their manifest is."""
    for one in tools:
        if isinstance(one, Tool):
            yield one
        else:
            yield from one


def request_model(agent: str, key: str) -> type[BaseModel]:
    """Return the input of an agent that declares none: who asks, and the message."""
    fields: dict[str, Any] = {key: (str, ...), "message": (str, ...)}
    return create_model(f"{agent}_request", **fields)
