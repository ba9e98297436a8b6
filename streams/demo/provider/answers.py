"""What the mock provider answers: a function of the messages alone, so that a run can be repeated.

The echo follows two directives, on a line of their own in the last user message, for tests: `write N` answers N tokens
of text, `call TOOL {json}` asks for that tool unless its result is there already. Payment disputes are answered in
`streams.demo.provider.payments`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AskedTool:
    """A tool that the answer asks for."""

    name: str
    arguments: Json


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says: text, or tools that it wants called."""

    text: str = ""
    tool_calls: tuple[AskedTool, ...] = field(default=())


Responder = Callable[[Sequence[Json], Sequence[Json], Json | None], Answer]
"""From messages, tools and response_format, as they came in, to the answer. A ValueError becomes a 400."""

_WRITE = re.compile(r"^write (\d+)$", re.MULTILINE)
_CALL = re.compile(r"^call (\S+) (\{.*\})$", re.MULTILINE)


def echo(messages: Sequence[Json], tools: Sequence[Json], response_format: Json | None) -> Answer:
    """Repeat the last user message, or follow its directive; with a schema, answer its smallest value."""
    said = next((text_of(m) for m in reversed(messages) if m["role"] == "user"), "")
    if (order := _CALL.search(said)) and messages[-1]["role"] != "tool":
        if order[1] not in {tool["function"]["name"] for tool in tools}:
            raise ValueError(f"told to call {order[1]!r}, which is not among the tools")
        return Answer(tool_calls=(AskedTool(order[1], orjson.loads(order[2])),))
    if response_format and response_format["type"] == "json_schema":
        schema = response_format["json_schema"]["schema"]
        return Answer(orjson.dumps(smallest(schema, schema)).decode())
    if response_format and response_format["type"] == "json_object":
        return Answer(orjson.dumps({"echo": said}).decode())
    if wanted := _WRITE.search(said):
        return Answer("word" * int(wanted[1]))
    last = messages[-1]
    return Answer(f"echo: {text_of(last) if last['role'] == 'tool' else said}")


def text_of(message: Json) -> str:
    """Return a message's content as text; parts that are not text are left out."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def smallest(schema: Json, root: Json) -> Any:
    """Return a small value that a JSON schema allows. Knows what pydantic writes; patterns and formats it ignores."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return smallest(target, root)
    if "const" in schema or "default" in schema:
        return schema.get("const", schema.get("default"))
    for choice in ("enum", "anyOf", "oneOf", "allOf"):
        if choice in schema:
            first = schema[choice][0]
            return first if choice == "enum" else smallest(first, root)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: smallest(properties.get(name, {}), root) for name in schema.get("required", ())}
        case "array":
            return [smallest(schema.get("items", {}), root)] * schema.get("minItems", 0)
        case "string":
            return "x" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return False
        case _:
            return None
