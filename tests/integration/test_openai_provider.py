import asyncio
from collections.abc import AsyncIterator

import pytest

from streams.demo.asgi import ASGIApp, Receive, Scope, Send, read_body, send_bytes
from streams.demo.domain import AccountStatus, Decision, Dispute, Order, Orders, Receipt, conversation
from streams.demo.provider import Limits, MockProvider
from streams.llm.chat import ChatRequest
from streams.llm.messages import Message
from streams.llm.openai import OpenAIProvider
from streams.llm.provider_errors import Refused, Throttled, Unauthorized, Unavailable

HELLO = ChatRequest("fast", [{"role": "user", "content": "hello"}])


def ask(content: str, **fields) -> ChatRequest:
    return ChatRequest("fast", [{"role": "user", "content": content}], **fields)


def canned(body: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send_bytes(send, 200, body)

    return app


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    async with MockProvider() as running:
        yield running


@pytest.fixture
async def provider(mock: MockProvider) -> AsyncIterator[OpenAIProvider]:
    running = OpenAIProvider(mock.base_url)
    yield running
    await running.close()


async def test_a_call_gets_text_usage_and_limits(mock, provider):
    mock.configure(limits=Limits(requests_per_minute=100).model_dump())
    answer = await provider.complete(ask("hello", request_id="r-1"), "k1", 5)
    assert (answer.text, answer.finish_reason) == ("echo: hello", "stop")
    assert answer.usage
    assert answer.usage.total_tokens > 2
    (seen,) = answer.headers.observations
    assert (seen.quantity, seen.limit, seen.remaining) == ("requests", 100, 99)
    assert mock.stats.request_ids == {"r-1": 1}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_dispute_is_settled_with_a_tool_and_structured_output(provider, streamed):
    order = Order(id="o1", cents=70, refundable=True)
    account = AccountStatus(status="active", version=2)
    talk = conversation(Dispute(customer="c1", order="o1"), account, Orders(orders=(order,)))
    parameters = {"type": "object", "properties": {"customer": {}, "cents": {}}}
    tool = {"type": "function", "function": {"name": "refund", "description": "", "parameters": parameters}}
    pieces: list[str] = []

    async def turn():
        request = ChatRequest("fast", [m.to_wire() for m in talk], tools=[tool], schema=Decision.model_json_schema())
        return await provider.complete(request, "k1", 5, pieces.append if streamed else None)

    first = await turn()
    assert (first.text, first.finish_reason) == ("", "tool_calls")
    (call,) = first.tool_calls
    assert (call.name, call.arguments) == ("refund", '{"customer":"c1","cents":70}')
    receipt = Receipt(state="refunded").model_dump_json()
    talk += [
        Message(role="assistant", tool_calls=first.tool_calls),
        Message(role="tool", tool_call_id=call.id, content=receipt),
    ]
    second = await turn()
    assert Decision.model_validate_json(second.text).action == "refund"
    assert "".join(pieces) == (second.text if streamed else "")
    assert second.usage


async def test_pieces_come_as_they_are_written(mock, provider):
    pieces: list[str] = []
    answer = await provider.complete(ask("write 40", max_output_tokens=30), "k1", 5, pieces.append)
    assert len(pieces) > 3
    assert "".join(pieces) == answer.text == "word" * 30
    assert answer.finish_reason == "length"
    assert answer.usage
    assert answer.usage.output_tokens == 30
    assert mock.stats.streamed == 1


@pytest.mark.parametrize("on_text", [None, lambda piece: None], ids=["whole", "streamed"])
async def test_each_failure_is_of_its_kind(mock, provider, on_text):
    mock.configure(limits={"requests_per_minute": 1}, keys=None)
    await provider.complete(HELLO, "k1", 5, on_text)
    with pytest.raises(Throttled, match="Rate limit reached for fast") as throttled:
        await provider.complete(HELLO, "k1", 5, on_text)
    assert throttled.value.retry_after_s
    assert 59 < throttled.value.retry_after_s <= 60
    assert throttled.value.headers.observations[0].remaining == 0

    mock.configure(limits={}, keys={"good": {}})
    with pytest.raises(Unauthorized, match="Incorrect API key"):
        await provider.complete(HELLO, "bad-key", 5, on_text)
    with pytest.raises(Refused, match="non-empty array") as refused:
        await provider.complete(ChatRequest("fast", []), "good", 5, on_text)
    assert refused.value.status == 400

    mock.configure(keys=None, outage="error")
    with pytest.raises(Unavailable, match="503: The server is overloaded") as down:
        await provider.complete(HELLO, "k", 5, on_text)
    assert down.value.kind == "status"

    mock.configure(outage="hang")
    with pytest.raises(Unavailable, match=r"no answer within 0\.2 s") as late:
        await provider.complete(HELLO, "k", 0.2, on_text)
    assert late.value.kind == "timeout"
    assert mock.stats.as_json(with_ids=False)["requests"] == 6  # no retries of its own


async def test_a_stream_that_stalls_is_cut_off_in_time(mock, provider):
    mock.configure(chunk_gap_s=0.2)
    pieces: list[str] = []
    with pytest.raises(Unavailable) as late:
        await provider.complete(ask("write 100"), "k", 0.5, pieces.append)
    assert late.value.kind == "timeout"
    assert pieces


async def test_nobody_there():
    provider = OpenAIProvider("http://127.0.0.1:9/v1")
    with pytest.raises(Unavailable) as nobody:
        await provider.complete(HELLO, "k", 5)
    assert nobody.value.kind == "connection"
    await provider.close()


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
async def test_an_answer_that_cannot_be_read_is_malformed(body):
    async with MockProvider(mounts={"odd": canned(body)}) as mock:
        provider = OpenAIProvider(f"{mock.url}/odd/v1")
        with pytest.raises(Unavailable, match="not an answer of the chat-completions protocol") as odd:
            await provider.complete(HELLO, "k", 5)
        assert odd.value.kind == "malformed"
        await provider.close()


async def test_a_stream_that_ends_early_is_malformed():
    async with MockProvider(
        mounts={"odd": canned(b'data: {"choices":[{"index":0,"delta":{"content":"he"}}]}\n\n')}
    ) as mock:
        provider = OpenAIProvider(f"{mock.url}/odd/v1")
        with pytest.raises(Unavailable, match="ended before the answer was complete"):
            await provider.complete(HELLO, "k", 5, lambda piece: None)
        await provider.close()


async def test_many_calls_share_one_client(mock, provider):
    answers = await asyncio.gather(*(provider.complete(HELLO, f"k{i % 3}", 5) for i in range(60)))
    assert {answer.text for answer in answers} == {"echo: hello"}
    assert set(mock.stats.by_key) == {"k0", "k1", "k2"}
