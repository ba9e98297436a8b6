from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from streams.demo.asgi import Receive, Scope, Send, read_body, send_json
from streams.demo.provider import MockProvider
from streams.llm.anthropic import AnthropicProvider
from streams.llm.chat import ChatRequest
from streams.llm.provider_errors import Refused, Throttled, Unauthorized, Unavailable
from streams.llm.usage import Usage

LIMITS = [
    (b"anthropic-ratelimit-output-tokens-limit", b"8000"),
    (b"anthropic-ratelimit-output-tokens-remaining", b"7000"),
    (b"anthropic-ratelimit-output-tokens-reset", b"2026-11-20T12:00:00Z"),
]
ANSWER: list[dict[str, Any]] = [
    {"type": "text", "text": "Paying now."},
    {"type": "tool_use", "id": "t1", "name": "refund", "input": {"cents": 5}},
]
START: dict[str, Any] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [],
    "stop_reason": None,
}


class MessagesServer:
    """Speaks the Messages protocol just well enough: one answer, whole or streamed, or an error by the model's name."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] == "/v1/messages"
        assert dict(scope["headers"])[b"authorization"] == b"Bearer key-of-the-tests"
        body = orjson.loads(await read_body(receive))
        self.bodies.append(body)
        if body["model"].isdigit():
            error = {"type": "error", "error": {"type": "some_error", "message": "because of key-of-the-tests"}}
            await send_json(send, int(body["model"]), error, [(b"retry-after", b"7"), *LIMITS])
        elif body.get("stream"):
            await self._stream(send, cut=body["model"] == "cut")
        else:
            usage = {"input_tokens": 11, "cache_read_input_tokens": 9, "output_tokens": 6}
            whole = {**START, "content": ANSWER, "stop_reason": "tool_use", "usage": usage}
            await send_json(send, 200, {} if body["model"] == "odd" else whole, LIMITS)

    async def _stream(self, send: Send, *, cut: bool) -> None:
        text, tool = {"type": "text", "text": ""}, {**ANSWER[1], "input": {}}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {**START, "usage": {"input_tokens": 20, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": text},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Paying "}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "now."}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": tool},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"ce'}},
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": 'nts":5}'},
            },
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 6}},
            {"type": "message_stop"},
        ]
        headers = [(b"content-type", b"text/event-stream"), *LIMITS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events[:4] if cut else events:
            line = b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def server() -> MessagesServer:
    return MessagesServer()


@pytest.fixture
async def provider(server: MessagesServer) -> AsyncIterator[AnthropicProvider]:
    async with MockProvider(mounts={"anthropic": server}) as mock:
        running = AnthropicProvider(f"{mock.url}/anthropic")
        yield running
        await running.close()


def ask(model: str = "claude", **fields) -> ChatRequest:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    return ChatRequest(model, messages, **fields)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_with_text_and_a_tool(server, provider, streamed):
    pieces: list[str] = []
    answer = await provider.complete(
        ask(temperature=0.2, max_output_tokens=50), "key-of-the-tests", 5, pieces.append if streamed else None
    )
    assert (answer.text, answer.finish_reason, answer.usage) == ("Paying now.", "tool_calls", Usage(20, 6))
    (call,) = answer.tool_calls
    assert (call.id, call.name, orjson.loads(call.arguments)) == ("t1", "refund", {"cents": 5})
    assert pieces == (["Paying ", "now."] if streamed else [])
    (seen,) = answer.headers.observations
    assert (seen.quantity, seen.limit, seen.remaining) == ("output_tokens", 8000, 7500)
    (sent,) = server.bodies
    assert (sent["system"], sent["max_tokens"], sent["temperature"]) == ("Be kind.", 50, 0.2)
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]


@pytest.mark.parametrize("on_text", [None, lambda piece: None], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [("400", Refused), ("401", Unauthorized), ("403", Unauthorized), ("429", Throttled), ("529", Unavailable)],
)
async def test_each_failure_is_of_its_kind_and_tried_once(server, provider, status, kind, on_text):
    with pytest.raises(kind, match=r"because of \*\*\*") as failed:
        await provider.complete(ask(status), "key-of-the-tests", 5, on_text)
    assert failed.value.headers.retry_after_s == 7
    assert len(server.bodies) == 1


async def test_answers_that_are_none_or_cut_off_are_malformed(provider):
    with pytest.raises(Unavailable, match="not an answer of the Messages API") as odd:
        await provider.complete(ask("odd"), "key-of-the-tests", 5)
    assert odd.value.kind == "malformed"
    with pytest.raises(Unavailable, match="ended before the answer was complete"):
        await provider.complete(ask("cut"), "key-of-the-tests", 5, lambda piece: None)


async def test_nobody_there():
    provider = AnthropicProvider("http://127.0.0.1:9")
    with pytest.raises(Unavailable) as nobody:
        await provider.complete(ask(), "key-of-the-tests", 5)
    assert nobody.value.kind == "connection"
    await provider.close()


async def test_messages_that_cannot_be_said_there_are_refused_before_they_are_sent(server, provider):
    with pytest.raises(Refused, match="not a conversation: KeyError"):
        await provider.complete(ChatRequest("claude", [{"content": "no role"}]), "key-of-the-tests", 5)
    assert server.bodies == []
