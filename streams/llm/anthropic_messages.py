"""Between the chat-completions form of a conversation and the one of Anthropic's Messages API; values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.headers import RateHeaders
from streams.llm.messages import ToolRequest
from streams.llm.usage import Usage

DEFAULT_MAX_OUTPUT_TOKENS = 4096
"""Anthropic demands a bound."""

Json = dict[str, Any]

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def body_of(request: ChatRequest) -> Json:
    """Return the body of a Messages request."""
    system: list[str] = []
    messages: list[Json] = []
    for message in request.messages:
        if message["role"] in ("system", "developer"):
            system.append(str(message.get("content") or ""))
            continue
        turn = _turn(message)
        if messages and messages[-1]["role"] == turn["role"]:
            # The answers to several tools must come in one turn.
            messages[-1]["content"] += turn["content"]
        else:
            messages.append(turn)
    body: Json = {
        "model": request.model,
        "max_tokens": request.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS,
        "messages": messages,
        **request.extra,
    }
    if system:
        body["system"] = "\n\n".join(system)
    if request.tools:
        body["tools"] = [_tool(tool["function"]) for tool in request.tools]
    if request.schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": request.schema}}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body


def response_of(answer: Mapping[str, Any], told: RateHeaders) -> ChatResponse:
    """Return a Messages answer as a response.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    blocks = answer["content"]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = tuple(
        ToolRequest(id=block["id"], name=block["name"], arguments=orjson.dumps(block["input"]).decode())
        for block in blocks
        if block["type"] == "tool_use"
    )
    return ChatResponse(text, calls, finish_reason(answer.get("stop_reason")), usage_of(answer["usage"]), told)


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """Return all tokens that went in, cached ones included, and all that came out."""
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return Usage(sum(usage.get(kind) or 0 for kind in kinds), usage.get("output_tokens") or 0)


def finish_reason(said: str | None) -> str:
    """Return why the answer ended, in the words of chat completions."""
    return _REASONS.get(said or "end_turn", said or "stop")


def _turn(message: Mapping[str, Any]) -> Json:
    if message["role"] == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": message["tool_call_id"],
            "content": message.get("content") or "",
        }
        return {"role": "user", "content": [result]}
    content = message.get("content") or []
    # Empty text blocks are refused there.
    blocks: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": function["name"],
                "input": _object(function["arguments"]),
            }
        )
    return {"role": message["role"], "content": blocks}


def _object(arguments: str) -> Json:
    """Return a tool call's arguments; what a model wrote wrongly goes back to it, and does not end its conversation."""
    try:
        value = orjson.loads(arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"not a JSON object": arguments}


def _tool(function: Mapping[str, Any]) -> Json:
    tool: Json = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    if function.get("description"):
        tool["description"] = function["description"]
    return tool
