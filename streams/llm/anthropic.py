"""Calls Anthropic's Messages API through the official client, its retries off.

How a conversation is said there is in `streams.llm.anthropic_messages`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import anthropic
import httpx2
import orjson

from streams.llm.anthropic_messages import body_of, finish_reason, response_of, usage_of
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.headers import read_headers
from streams.llm.messages import ToolRequest
from streams.llm.provider_errors import ProviderError, Refused, Unavailable, classify, redact
from streams.llm.providers import OnText

PATH = "/v1/messages"


class AnthropicProvider:
    """Provider on the official `anthropic` client, with one HTTP client for all keys.

    Args:
        base_url: Anthropic's if None.
        connections: Most connections at once.
    """

    name = "anthropic"

    def __init__(self, base_url: str | None = None, *, connections: int = 1000) -> None:
        self._base_url = base_url
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = anthropic.DefaultAsyncHttpxClient(limits=limits)
        self._clients: dict[str, anthropic.AsyncAnthropic] = {}

    async def complete(
        self, request: ChatRequest, key: str, timeout_s: float, on_text: OnText | None = None
    ) -> ChatResponse:
        """Make one call; see `Provider.complete`."""
        try:
            body = body_of(request)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(400, f"not a conversation: {type(error).__name__}: {error}") from error
        client = self._client(key)
        try:
            async with asyncio.timeout(timeout_s):
                if on_text is not None:
                    return await _stream(client, body, timeout_s, on_text)
                answer = await client.post(PATH, body=body, cast_to=httpx2.Response, options={"timeout": timeout_s})
                told = read_headers(answer.headers, time.time())
                try:
                    return response_of(orjson.loads(answer.content), told)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    problem = f"not an answer of the Messages API ({type(error).__name__}: {error})"
                    raise Unavailable("malformed", redact(f"{problem}: {answer.content[:200]!r}", key), told) from error
        except (anthropic.APIError, httpx2.HTTPError, TimeoutError) as error:
            raise _translate(error, key, timeout_s) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _client(self, key: str) -> anthropic.AsyncAnthropic:
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = anthropic.AsyncAnthropic(
                api_key=key, base_url=self._base_url, max_retries=0, http_client=self._http
            )
        return client


async def _stream(
    client: anthropic.AsyncAnthropic, body: dict[str, Any], timeout_s: float, on_text: OnText
) -> ChatResponse:
    raw = await client.messages.with_raw_response.create(
        max_tokens=body["max_tokens"],
        messages=[],
        model=body["model"],
        stream=True,
        extra_body=body,
        timeout=timeout_s,
    )
    text: list[str] = []
    blocks: dict[int, tuple[str, str, list[str]]] = {}
    usage: dict[str, Any] = {}
    reason: str | None = None
    complete = False
    async with await raw.parse() as events:
        async for event in events:
            match event.type:
                case "message_start":
                    usage.update(event.message.usage.model_dump(exclude_none=True))
                case "content_block_start" if event.content_block.type == "tool_use":
                    blocks[event.index] = (event.content_block.id, event.content_block.name, [])
                case "content_block_delta" if event.delta.type == "text_delta":
                    text.append(event.delta.text)
                    on_text(event.delta.text)
                case "content_block_delta" if event.delta.type == "input_json_delta":
                    blocks[event.index][2].append(event.delta.partial_json)
                case "message_delta":
                    reason = event.delta.stop_reason or reason
                    usage.update(event.usage.model_dump(exclude_none=True))
                case "message_stop":
                    complete = True
                case _:
                    pass
    told = read_headers(raw.headers, time.time())
    if not complete:
        raise Unavailable("malformed", "the stream ended before the answer was complete", told)
    calls = tuple(
        ToolRequest(id=name_id, name=name, arguments="".join(parts) or "{}")
        for _, (name_id, name, parts) in sorted(blocks.items())
    )
    return ChatResponse("".join(text), calls, finish_reason(reason), usage_of(usage), told)


def _translate(error: Exception, key: str, timeout_s: float) -> ProviderError:
    match error:
        case anthropic.APIStatusError():
            headers: Mapping[str, str] = error.response.headers
            words = error.api_message or error.message
            return classify(error.status_code, words, headers, key=key, wall_s=time.time())
        case anthropic.APITimeoutError() | httpx2.TimeoutException() | TimeoutError():
            return Unavailable("timeout", f"no answer within {timeout_s:g} s")
        case anthropic.APIConnectionError() | httpx2.HTTPError():
            cause = error.__cause__ or error
            return Unavailable("connection", redact(f"{type(cause).__name__}: {cause}", key))
        case _:
            return Unavailable("status", redact(str(error), key))
