"""Reads a chat-completions request as strictly as OpenAI does: malformed, unknown or out of order is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from streams.demo.provider.answers import Json, text_of

KNOWN = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "n", "stop", "seed", "user", "metadata", "store"),
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "service_tier", "reasoning_effort"),
        *("max_tokens", "max_completion_tokens", "temperature", "top_p", "logit_bias", "logprobs", "top_logprobs"),
        *("frequency_penalty", "presence_penalty", "verbosity", "prompt_cache_key", "safety_identifier"),
    )
)
ROLES = frozenset(("system", "developer", "user", "assistant", "tool"))
TOKENS_PER_MESSAGE = 4
BYTES_PER_TOKEN = 4

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class BadRequest(ValueError):
    """A request that gets a 400; *param* says where."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def parse(body: bytes) -> dict[str, Any]:
    """Return the request.

    Raises:
        BadRequest: it is not what the protocol says.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(request, dict):
        raise BadRequest("The body of your request must be a JSON object.")
    if unknown := request.keys() - KNOWN:
        raise BadRequest(f"Unrecognized request argument supplied: {min(unknown)}", min(unknown), "unknown_parameter")
    if not isinstance(request.get("model"), str) or not request["model"]:
        raise BadRequest("you must provide a model parameter", "model", "missing_required_parameter")
    _check_messages(request.get("messages"))
    _check_tools(request.get("tools"))
    _check_format(request.get("response_format"))
    for name in ("max_tokens", "max_completion_tokens"):
        bound = request.get(name)
        if bound is not None and (type(bound) is not int or bound < 1):
            raise BadRequest(f"Invalid value for '{name}': must be an integer of at least 1.", name)
    temperature = request.get("temperature")
    if temperature is not None and (type(temperature) not in (int, float) or not 0 <= temperature <= 2):
        raise BadRequest("Invalid 'temperature': must be a number from 0 to 2.", "temperature")
    if type(request.get("stream") or False) is not bool:
        raise BadRequest("Invalid type for 'stream': expected a boolean.", "stream", "invalid_type")
    if request.get("n") not in (None, 1):
        raise BadRequest("This server makes one choice: 'n' must be 1.", "n")
    return request


def input_tokens(request: Json) -> int:
    """Return the tokens of a request, as this provider counts: four bytes each, and four for each message."""
    total = 0
    for message in request["messages"]:
        total += len(text_of(message).encode())
        for call in message.get("tool_calls") or ():
            total += len(call["function"]["name"]) + len(call["function"]["arguments"])
    for part in ("tools", "response_format"):
        if request.get(part):
            total += len(orjson.dumps(request[part]))
    return total // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(request["messages"])


def text_tokens(text: str) -> int:
    """Return the tokens of an answer's text."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("Invalid 'messages': expected a non-empty array.", "messages", "invalid_type")
    awaited: set[str] = set()
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadRequest(f"Invalid '{where}.role': expected one of {', '.join(sorted(ROLES))}.", f"{where}.role")
        content, calls = message.get("content"), message.get("tool_calls")
        parts = content if isinstance(content, list) else []
        if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
            raise BadRequest(f"Invalid '{where}.content': expected parts with a type.", f"{where}.content")
        if not isinstance(content, str | list) and not (content is None and calls):
            raise BadRequest(f"Invalid type for '{where}.content': expected a string.", f"{where}.content")
        if message["role"] == "tool":
            if message.get("tool_call_id") not in awaited:
                raise BadRequest(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                    "'tool_calls'.",
                    f"{where}.role",
                )
            awaited.discard(message["tool_call_id"])
            continue
        _nothing_awaited(awaited, where)
        if calls is not None:
            awaited = _check_calls(calls, message["role"], where)
    _nothing_awaited(awaited, f"messages[{len(messages)}]")


def _nothing_awaited(awaited: set[str], where: str) -> None:
    if awaited:
        raise BadRequest(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. Missing: {', '.join(sorted(awaited))}",
            where,
        )


def _check_calls(calls: object, role: str, where: str) -> set[str]:
    if role != "assistant" or not isinstance(calls, list) or not calls:
        raise BadRequest(f"Invalid '{where}.tool_calls': expected a non-empty array.", f"{where}.tool_calls")
    ids: set[str] = set()
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(call.get("id"), str)
            or call.get("type") != "function"
            or not all(isinstance(function.get(part), str) for part in ("name", "arguments"))
        ):
            raise BadRequest(
                f"Invalid '{where}.tool_calls': expected id, type and a function with name and arguments.",
                f"{where}.tool_calls",
            )
        ids.add(call["id"])
    return ids


def _check_tools(tools: object) -> None:
    if tools is None:
        return
    if not isinstance(tools, list) or not tools:
        raise BadRequest("Invalid 'tools': expected a non-empty array.", "tools")
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadRequest(f"Invalid 'tools[{i}].function.name': must match {_NAME.pattern}.", f"tools[{i}]")
        assert isinstance(function, Mapping)
        if not isinstance(function.get("parameters", {}), Mapping):
            raise BadRequest(f"Invalid 'tools[{i}].function.parameters': expected a JSON schema.", f"tools[{i}]")


def _check_format(wanted: object) -> None:
    if wanted is None:
        return
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise BadRequest("Invalid 'response_format.type'.", "response_format.type", "invalid_value")
    assert isinstance(wanted, Mapping)
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        if not isinstance(inner, Mapping) or not _NAME.fullmatch(str(inner.get("name", ""))):
            raise BadRequest("Missing or invalid 'response_format.json_schema.name'.", "response_format.json_schema")
        if not isinstance(inner.get("schema"), Mapping):
            raise BadRequest("Missing 'response_format.json_schema.schema'.", "response_format.json_schema.schema")
