"""One call to a model, apart from whose model it is: what is asked, and what came back.

Messages and tools travel in the form of OpenAI's chat-completions protocol, which every provider adapter reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from streams.llm.headers import NO_HEADERS, RateHeaders
from streams.llm.messages import ToolRequest
from streams.llm.usage import Usage

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request to a model.

    Attributes:
        model: Name of the model as the provider knows it.
        messages: `{"role": ..., "content": ...}` and so on, as `Message.to_wire` makes them.
        tools: `{"type": "function", "function": {"name", "description", "parameters"}}`.
        schema: JSON schema that the answer must follow; None for text.
        max_output_tokens: Bound on the answer; None leaves it to the provider.
        request_id: Sent along where the provider takes one, so that a request can be found there.
        extra: Further fields of the provider's body, as they are.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    request_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_payload(
        cls, payload: bytes, *, model: str, request_id: str = "", extra: Mapping[str, Any] | None = None
    ) -> Self:
        """Return the request that an `LlmRequest` record carries in its `request` field.

        Raises:
            ValueError: *payload* is not a JSON object with messages.
        """
        body = orjson.loads(payload)
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            raise ValueError("a request to a model must be a JSON object with a list of messages")
        return cls(
            model=model,
            messages=body["messages"],
            tools=body.get("tools") or (),
            schema=body.get("schema"),
            max_output_tokens=body.get("max_output_tokens") or None,
            temperature=body.get("temperature"),
            request_id=request_id,
            extra=extra or {},
        )

    def to(self, model: str, max_output_tokens: int) -> ChatRequest:
        """Return the same request to a model, with a bound."""
        return ChatRequest(
            model,
            self.messages,
            self.tools,
            self.schema,
            max_output_tokens,
            self.temperature,
            self.request_id,
            self.extra,
        )

    @property
    def schema_name(self) -> str:
        """A name for the schema, as providers demand one."""
        title = str((self.schema or {}).get("title", ""))
        return _NOT_IN_NAMES.sub("_", title)[:64] or "output"


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """What a model answered.

    Attributes:
        text: Empty when it only asks for tools.
        finish_reason: `stop`, `tool_calls`, `length` (cut off at the bound) or `content_filter`; anything else as the
            provider said it.
        usage: None if the provider did not report it.
        headers: What it said about its limits.
    """

    text: str = ""
    tool_calls: tuple[ToolRequest, ...] = ()
    finish_reason: str = "stop"
    usage: Usage | None = None
    headers: RateHeaders = NO_HEADERS
