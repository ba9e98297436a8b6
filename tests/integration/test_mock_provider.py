import asyncio
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from pydantic import ValidationError

from streams.demo.accounts import World
from streams.demo.bank import Bank
from streams.demo.bank_client import BankClient
from streams.demo.provider import Answer, Limits, MockConfig, MockProvider

HELLO = {"model": "fast", "messages": [{"role": "user", "content": "hello"}]}


async def post(mock: MockProvider, body=HELLO, key="k1", **headers) -> httpx2.Response:
    async with httpx2.AsyncClient() as http:
        return await http.post(
            f"{mock.base_url}/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}", **headers},
            timeout=5,
        )


async def stats(mock: MockProvider, query: str = "") -> dict[str, Any]:
    async with httpx2.AsyncClient() as http:
        seen: dict[str, Any] = (await http.get(f"{mock.url}/stats{query}")).json()
        return seen


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    async with MockProvider() as running:
        yield running


async def test_it_speaks_to_the_official_client(mock):
    async with openai.AsyncOpenAI(api_key="k1", base_url=mock.base_url, max_retries=0) as client:
        said = await client.chat.completions.create(model="fast", messages=[{"role": "user", "content": "hello"}])
        assert said.choices[0].message.content == "echo: hello"
        assert said.choices[0].finish_reason == "stop"
        assert said.usage
        assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
        assert [model.id async for model in client.models.list()] == ["fast"]


async def test_it_streams_to_the_official_client(mock):
    async with openai.AsyncOpenAI(api_key="k1", base_url=mock.base_url, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="fast",
            messages=[{"role": "user", "content": "write 30"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "word" * 30
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 30


async def test_the_same_request_gets_the_same_answer(mock):
    first, second = (await post(mock)).json(), (await post(mock)).json()
    assert (first["id"], first["choices"]) == (second["id"], second["choices"])


async def test_an_answer_is_cut_at_its_bound(mock):
    answer = (
        await post(mock, {**HELLO, "messages": [{"role": "user", "content": "write 50"}], "max_tokens": 7})
    ).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["choices"][0]["message"]["content"] == "word" * 7


async def test_requests_beyond_the_limit_get_429_and_when_to_come_back():
    async with MockProvider(MockConfig(limits=Limits(requests_per_minute=600, burst_s=0.3))) as mock:
        answers = await asyncio.gather(*(post(mock) for _ in range(5)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 2
        told = refused[0]
        assert told.json()["error"]["code"] == "rate_limit_exceeded"
        assert told.headers["x-ratelimit-limit-requests"] == "600"
        assert told.headers["x-ratelimit-remaining-requests"] == "0"
        assert told.headers["retry-after"] == "1"
        await asyncio.sleep(int(told.headers["retry-after-ms"]) / 1000)
        assert (await post(mock)).status_code == 200
        seen = await stats(mock)
        assert seen["by_status"] == {"200": 4, "429": 2}
        assert seen["rejected_429"] == 2
        assert seen["refused_by"] == {"requests": 2}


async def test_tokens_of_input_and_output_are_limited_by_key():
    async with MockProvider(MockConfig(limits=Limits(tokens_per_minute=60, burst_s=60))) as mock:
        body = {**HELLO, "messages": [{"role": "user", "content": "write 50"}]}
        used = (await post(mock, body, "k1")).json()["usage"]["total_tokens"]
        assert 50 < used < 60
        assert (await post(mock, body, "k1")).status_code == 429
        assert (await post(mock, body, "k2")).status_code == 200
        too_large = await post(mock, {**HELLO, "messages": [{"role": "user", "content": "write 100"}]}, "k3")
        assert too_large.status_code == 429
        assert "Request too large" in too_large.json()["error"]["message"]
        assert "retry-after" not in too_large.headers


async def test_concurrency_is_limited():
    async with MockProvider(MockConfig(limits=Limits(concurrency=20), latency_p50_s=0.2)) as mock:
        answers = await asyncio.gather(*(post(mock) for _ in range(40)))
        assert sorted(answer.status_code for answer in answers) == [200] * 20 + [429] * 20
        seen = await stats(mock)
        assert (seen["max_concurrency"], seen["open"]) == (20, 0)


async def test_unknown_keys_and_malformed_bodies_are_refused_as_openai_does():
    async with MockProvider(MockConfig(keys={"good": Limits()})) as mock:
        unknown = await post(mock, key="bad-key")
        assert unknown.status_code == 401
        assert unknown.json()["error"]["code"] == "invalid_api_key"
        malformed = await post(mock, {"model": "fast", "messages": []}, "good")
        assert malformed.status_code == 400
        assert malformed.json()["error"]["param"] == "messages"


async def test_answers_take_as_long_as_told_and_no_longer():
    async with MockProvider(MockConfig(latency_p50_s=0.02)) as mock, httpx2.AsyncClient() as http:
        times = []
        for _ in range(20):
            begin = time.monotonic()
            await http.post(f"{mock.base_url}/chat/completions", json=HELLO, headers={"authorization": "Bearer k"})
            times.append(time.monotonic() - begin)
    assert min(times) >= 0.02
    assert statistics.median(times) < 0.04


async def test_errors_come_at_their_rate_and_repeat_with_the_seed():
    runs = []
    for _ in range(2):
        async with MockProvider(MockConfig(error_rate=0.5, seed=7)) as mock:
            runs.append([(await post(mock)).status_code for _ in range(20)])
    assert runs[0] == runs[1]
    assert {200, 500} == set(runs[0])


async def test_it_is_changed_live(mock):
    async with httpx2.AsyncClient() as http:
        changed = await http.post(f"{mock.url}/control", json={"outage": "error"})
        assert changed.json()["outage"] == "error"
        assert (await post(mock)).status_code == 503
        await http.post(f"{mock.url}/control", json={"outage": "none"})
        assert (await post(mock)).status_code == 200
        unknown = await http.post(f"{mock.url}/control", json={"outrage": True})
        assert unknown.status_code == 400
        assert "outrage" in unknown.json()["error"]["message"]
        await http.post(f"{mock.url}/reset")
    assert (await stats(mock))["requests"] == 0
    with pytest.raises(ValidationError):
        mock.configure(limits={"concurrency": 0})


async def test_a_hang_lasts_until_the_caller_goes_away(mock):
    mock.configure(hang_rate=1.0)
    with pytest.raises(httpx2.ReadTimeout):
        async with httpx2.AsyncClient() as http:
            await http.post(f"{mock.base_url}/chat/completions", json=HELLO, timeout=0.2)
    await asyncio.sleep(0.05)
    seen = await stats(mock)
    assert (seen["by_status"], seen["open"]) == ({"0": 1}, 0)


async def test_repeated_request_ids_are_seen(mock):
    for name in ("a", "b", "a"):
        await post(mock, **{"x-client-request-id": name})
    seen = await stats(mock, "?ids=1")
    assert seen["repeated_request_ids"] == {"a": 2}
    assert seen["request_ids"] == {"a": 2, "b": 1}


async def test_what_it_says_can_be_replaced():
    async with MockProvider(responder=lambda messages, tools, response_format: Answer("always this")) as mock:
        assert (await post(mock)).json()["choices"][0]["message"]["content"] == "always this"


def test_it_runs_on_a_thread_for_blocking_callers():
    with MockProvider() as mock:
        answer = httpx2.post(f"{mock.base_url}/chat/completions", json=HELLO)
        assert answer.status_code == 200
        assert mock.stats.as_json(with_ids=False)["requests"] == 1


def test_it_has_no_address_before_it_starts():
    with pytest.raises(RuntimeError, match="use it as a context manager"):
        _ = MockProvider().base_url


@pytest.mark.parametrize("end", ["terminate", "stdin"])
def test_as_a_process_it_prints_its_address_and_ends_when_told(end):
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.demo.provider", "--rpm", "2", "--with-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin
        assert process.stdout
        url = process.stdout.readline().strip()
        statuses = [httpx2.post(f"{url}/v1/chat/completions", json=HELLO).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert httpx2.get(f"{url}/bank/accounts/cust-1").json()["version"] >= 1
        if end == "terminate":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


async def test_the_bank_stands_beside_it():
    bank = Bank(World(1, time.time(), 5.0))
    async with MockProvider(mounts={"bank": bank}) as mock, BankClient(f"{mock.url}/bank") as client:
        status = await client.account_status("cust-1")
        assert status.version >= 1
        orders = await client.orders("cust-1", "ord-9")
        order = orders.find("ord-9")
        assert order
        for _ in range(2):
            receipt = await client.refund("cust-1", "ord-9", order.cents, "same key")
            assert receipt.state == "refunded"
        ledger = await client.ledger()
        assert [refund.order for refund in ledger.refunds] == ["ord-9", "ord-9"]
        assert ledger.changes[0].customer == "cust-1"
        async with httpx2.AsyncClient(base_url=f"{mock.url}/bank/") as http:
            refused = await http.post("refunds", json={"customer": "c", "order": "o", "cents": 0})
            assert refused.status_code == 422
            assert refused.json()["problems"][0]["loc"] == ["cents"]
            await http.post("control", json={"outage": True})
            with pytest.raises(httpx2.HTTPStatusError):
                await client.account_status("cust-1")
            await http.post("reset")
            assert (await client.ledger()).refunds == ()
            assert (await http.get("nowhere")).status_code == 404
