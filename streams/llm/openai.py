"""Calls OpenAI, or any server that speaks its chat-completions protocol, through the official client.

The client's own retries are off: whether and when a call is repeated is the dispatcher's decision. Answers that are not
streamed are read without the client's response models, which cost more than the call itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import openai
import orjson

from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.headers import RateHeaders, read_headers
from streams.llm.messages import ToolRequest
from streams.llm.provider_errors import ProviderError, Unavailable, classify, redact
from streams.llm.providers import OnText
from streams.llm.usage import Usage


class OpenAIProvider:
    """Provider on the official `openai` client, with one HTTP client for all keys.

    Args:
        base_url: Such as `http://localhost:8000/v1`; OpenAI's if None.
        connections: Most connections at once.
        output_bound: Field for the bound on the answer. Older compatible servers only know `max_tokens`.
    """

    name = "openai"

    def __init__(
        self, base_url: str | None = None, *, connections: int = 1000, output_bound: str = "max_completion_tokens"
    ) -> None:
        self._base_url = base_url
        self._output_bound = output_bound
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = openai.DefaultAsyncHttpxClient(limits=limits)
        self._clients: dict[str, openai.AsyncOpenAI] = {}

    async def complete(
        self, request: ChatRequest, key: str, timeout_s: float, on_text: OnText | None = None
    ) -> ChatResponse:
        """Make one call; see `Provider.complete`."""
        client = self._client(key)
        headers = {"x-client-request-id": request.request_id} if request.request_id else {}
        try:
            async with asyncio.timeout(timeout_s):
                if on_text is not None:
                    return await self._stream(client, request, headers, timeout_s, on_text)
                answer = await client.post(
                    "/chat/completions",
                    body=self._body(request),
                    cast_to=httpx2.Response,
                    options={"headers": headers, "timeout": timeout_s},
                )
                return _read(answer.content, read_headers(answer.headers, time.time()), key)
        except (openai.APIError, httpx2.HTTPError, TimeoutError) as error:
            raise _translate(error, key, timeout_s) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _client(self, key: str) -> openai.AsyncOpenAI:
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = openai.AsyncOpenAI(
                api_key=key, base_url=self._base_url, max_retries=0, http_client=self._http
            )
        return client

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"model": request.model, "messages": request.messages, **request.extra}
        if request.tools:
            body["tools"] = request.tools
        if request.schema is not None:
            named = {"name": request.schema_name, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if request.max_output_tokens is not None:
            body[self._output_bound] = request.max_output_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        return body

    async def _stream(
        self,
        client: openai.AsyncOpenAI,
        request: ChatRequest,
        headers: dict[str, str],
        timeout_s: float,
        on_text: OnText,
    ) -> ChatResponse:
        body = {**self._body(request), "stream": True, "stream_options": {"include_usage": True}}
        raw = await client.chat.completions.with_raw_response.create(
            model=request.model, messages=[], stream=True, extra_body=body, extra_headers=headers, timeout=timeout_s
        )
        text: list[str] = []
        calls: dict[int, dict[str, str]] = {}
        reason, usage = "", None
        async with raw.parse() as chunks:
            async for chunk in chunks:
                if chunk.usage:
                    usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                if not chunk.choices:
                    continue
                choice = chunk.choices[0]
                reason = choice.finish_reason or reason
                if choice.delta.content:
                    text.append(choice.delta.content)
                    on_text(choice.delta.content)
                for part in choice.delta.tool_calls or ():
                    call = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                    call["id"] = part.id or call["id"]
                    if part.function:
                        call["name"] += part.function.name or ""
                        call["arguments"] += part.function.arguments or ""
        told = read_headers(raw.headers, time.time())
        if not reason:
            raise Unavailable("malformed", "the stream ended before the answer was complete", told)
        tools = tuple(ToolRequest(**call) for _, call in sorted(calls.items()))
        return ChatResponse("".join(text), tools, reason, usage, told)


def _read(content: bytes, told: RateHeaders, key: str) -> ChatResponse:
    try:
        answer = orjson.loads(content)
        choice = answer["choices"][0]
        message, used = choice["message"], answer.get("usage")
        calls = tuple(
            ToolRequest(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        )
        usage = Usage(used["prompt_tokens"], used["completion_tokens"]) if used else None
        return ChatResponse(message.get("content") or "", calls, choice.get("finish_reason") or "stop", usage, told)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        problem = f"not an answer of the chat-completions protocol ({type(error).__name__}: {error}): {content[:200]!r}"
        raise Unavailable("malformed", redact(problem, key), told) from error


def _translate(error: Exception, key: str, timeout_s: float) -> ProviderError:
    match error:
        case openai.APIStatusError():
            headers: Mapping[str, str] = error.response.headers
            return classify(error.status_code, _words(error), headers, key=key, wall_s=time.time(), code=error.code)
        case openai.APITimeoutError() | httpx2.TimeoutException() | TimeoutError():
            return Unavailable("timeout", f"no answer within {timeout_s:g} s")
        case openai.APIConnectionError() | httpx2.HTTPError():
            cause = error.__cause__ or error
            return Unavailable("connection", redact(f"{type(cause).__name__}: {cause}", key))
        case _:
            return Unavailable("status", redact(str(error), key))


def _words(error: openai.APIStatusError) -> str:
    if isinstance(error.body, Mapping) and isinstance(error.body.get("message"), str):
        return str(error.body["message"])
    return error.message
