"""Writes answers and errors in the shapes of OpenAI's chat-completions protocol, whole or as server-sent events."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from streams.demo.provider.answers import Answer
from streams.demo.provider.requests import BYTES_PER_TOKEN, text_tokens

PIECE_CHARACTERS = 20
DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer with everything that its JSON says."""

    id: str
    model: str
    created_s: int
    text: str
    tool_calls: tuple[Json, ...]
    finish_reason: str
    input_tokens: int
    output_tokens: int

    @property
    def usage(self) -> Json:
        """Tokens as the protocol reports them."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }


def complete(
    answer: Answer, body: bytes, model: str, input_tokens: int, bound: int | None, created_s: int
) -> Completion:
    """Return an answer cut to *bound* output tokens, with IDs that derive from the request's *body*."""
    digest = hashlib.blake2b(body, digest_size=12).hexdigest()
    calls: tuple[Json, ...] = tuple(
        {
            "id": f"call_{digest}{i}",
            "type": "function",
            "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
        }
        for i, call in enumerate(answer.tool_calls)
    )
    text, reason = answer.text, "tool_calls" if calls else "stop"
    said = "".join(call["function"]["name"] + call["function"]["arguments"] for call in calls)
    tokens = max(1, text_tokens(text + said))
    if bound is not None and tokens > bound and not calls:
        text = text.encode()[: bound * BYTES_PER_TOKEN].decode(errors="ignore")
        tokens, reason = bound, "length"
    return Completion(f"chatcmpl-{digest}", model, created_s, text, calls, reason, input_tokens, tokens)


def whole(completion: Completion) -> bytes:
    """Return the body of an answer that is not streamed."""
    message: Json = {"role": "assistant", "content": completion.text or None, "refusal": None}
    if completion.tool_calls:
        message["tool_calls"] = completion.tool_calls
    return orjson.dumps(
        {
            "id": completion.id,
            "object": "chat.completion",
            "created": completion.created_s,
            "model": completion.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}],
            "usage": completion.usage,
        }
    )


def events(completion: Completion, *, with_usage: bool) -> Iterator[bytes]:
    """Yield the server-sent events of a streamed answer, without the closing `DONE`."""
    yield _event(completion, {"role": "assistant", "content": "" if completion.text else None})
    for piece in _pieces(completion.text):
        yield _event(completion, {"content": piece})
    for i, call in enumerate(completion.tool_calls):
        function = call["function"]
        yield _event(completion, {"tool_calls": [{**call, "index": i, "function": {**function, "arguments": ""}}]})
        for piece in _pieces(function["arguments"]):
            yield _event(completion, {"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
    yield _event(completion, {}, completion.finish_reason)
    if with_usage:
        yield _data(completion, [], completion.usage)


def error(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> bytes:
    """Return the body of an error."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + PIECE_CHARACTERS] for at in range(0, len(text), PIECE_CHARACTERS))


def _event(completion: Completion, delta: Json, finish_reason: str | None = None) -> bytes:
    return _data(completion, [{"index": 0, "delta": delta, "finish_reason": finish_reason}], None)


def _data(completion: Completion, choices: list[Json], usage: Json | None) -> bytes:
    chunk = {
        "id": completion.id,
        "object": "chat.completion.chunk",
        "created": completion.created_s,
        "model": completion.model,
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
