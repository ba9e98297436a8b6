"""The dispatcher on functions as providers, in virtual time: keys, retries, cancellation."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from streams.breakers import BreakerPolicy, Guard
from streams.broker.port import TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.dispatcher import Dispatcher
from streams.llm.limits import KeyLimits, Limit, Part
from streams.llm.messages import ToolRequest
from streams.llm.pool import Pool
from streams.llm.provider_errors import ProviderError, Throttled, Unauthorized, Unavailable
from streams.llm.providers import OnText
from streams.llm.settings import PoolSettings
from streams.llm.usage import Usage
from streams.records.ids import StepId
from streams.records.steps import LlmRequest, LlmResult
from streams.records.topics import Catalogue
from streams.testing import virtual_time
from streams.tools.claims import Claims

BODY = orjson.dumps({"messages": [{"role": "user", "content": "hi"}]})


class Keys:
    """A provider that knows which keys are good."""

    name = "keys"

    def __init__(self, **errors: ProviderError | Exception) -> None:
        self.errors = errors
        self.asked: Counter[str] = Counter()
        self.timeouts: list[float] = []
        self.answer = ChatResponse("yes", usage=Usage(5, 5))
        self.takes_s = 1.0

    async def complete(
        self, request: ChatRequest, key: str, timeout_s: float, on_text: OnText | None = None
    ) -> ChatResponse:
        self.asked[key] += 1
        self.timeouts.append(timeout_s)
        if key in self.errors:
            raise self.errors[key]
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.takes_s)
        except TimeoutError:
            raise Unavailable("timeout", f"no answer within {timeout_s:g} s") from None
        return self.answer

    async def close(self) -> None:
        pass


def dispatcher(provider: Keys, *keys: str, max_result_bytes: int = 1_000, **fields: Any) -> Dispatcher:
    loop = asyncio.get_running_loop()
    pool = Pool(
        "fast",
        PoolSettings(model="m", **fields),
        [SecretStr(key) for key in keys],
        provider,
        Guard("llm:fast", BreakerPolicy(), "test", Random(0).random),
        loop.time,
        loop.time,
    )
    return Dispatcher({"fast": pool}, max_result_bytes=max_result_bytes, clock=loop.time, now=loop.time, rng=Random(0))


def request(number: int = 0, wait_s: float = 100.0, **fields: Any) -> LlmRequest:
    until_ms = int((asyncio.get_running_loop().time() + wait_s) * 1000)
    return LlmRequest(f"a/b/{number}", 0, 0, "fast", BODY, 0, until_ms, **fields)


def run(main: Any) -> Any:
    return virtual_time.run(main(), seed=1, max_time_s=10_000)


def test_a_key_that_is_not_accepted_goes_out_loudly_and_the_others_do_its_work(caplog):
    provider = Keys(bad=Unauthorized("Incorrect API key provided"))

    async def main() -> list[LlmResult]:
        one = dispatcher(provider, "bad", "good")
        return await asyncio.gather(*(one.answer(request(n)) for n in range(50)))

    results = run(main)
    assert {result.status for result in results} == {"ok"}
    assert provider.asked["good"] == 50
    assert provider.asked["bad"] <= 25  # those that went out before the first answer
    assert "key fast/1 is not accepted" in caplog.text
    assert "1 of 2 keys left: Incorrect API key provided" in caplog.text
    assert "bad" not in caplog.text


def test_without_any_accepted_key_it_is_an_outage():
    provider = Keys(bad=Unauthorized("Incorrect API key provided"))

    async def main() -> tuple[LlmResult, float]:
        result = await dispatcher(provider, "bad", max_hold_s=10).answer(request())
        return result, asyncio.get_running_loop().time()

    result, at = run(main)
    assert (result.status, result.cause) == ("failed", "outage")
    assert "Incorrect API key provided" in result.error_message
    assert 10 <= at < 12
    assert provider.asked.total() == 1


def test_tool_calls_are_told_as_the_handler_reads_them():
    provider = Keys()
    provider.answer = ChatResponse("", (ToolRequest(id="1", name="refund", arguments='{"cents":5}'),), "tool_calls")

    async def main() -> LlmResult:
        return await dispatcher(provider, "k").answer(request())

    result = run(main)
    assert orjson.loads(result.value) == {
        "text": "",
        "tool_calls": [{"id": "1", "name": "refund", "arguments": '{"cents":5}'}],
        "finish_reason": "tool_calls",
    }
    assert result.input_tokens > 0  # estimated where the provider says nothing


def test_an_answer_too_large_for_a_record_is_a_failure_that_says_so():
    provider = Keys()
    provider.answer = ChatResponse("x" * 2_000)

    async def main() -> LlmResult:
        return await dispatcher(provider, "k").answer(request())

    result = run(main)
    assert (result.status, result.cause) == ("failed", "unencodable")
    assert "max_payload_bytes" in result.error_message


def test_a_429_that_no_waiting_ends_is_not_repeated():
    provider = Keys(k=Throttled("Request too large for m on tokens per min"))

    async def main() -> LlmResult:
        return await dispatcher(provider, "k").answer(request())

    result = run(main)
    assert (result.cause, result.attempts) == ("too_large", 1)


def test_a_call_is_cut_at_the_deadline_and_that_is_not_the_endpoints_fault():
    provider = Keys()
    provider.takes_s = 50.0

    async def main() -> tuple[list[LlmResult], str]:
        one = dispatcher(provider, "k", timeout_s=60)
        results = await asyncio.gather(*(one.answer(request(n, wait_s=5)) for n in range(20)))
        return results, one.pools["fast"].guard.phase

    results, phase = run(main)
    assert {(result.status, result.cause) for result in results} == {("failed", "deadline")}
    assert phase == "closed"
    assert max(provider.timeouts) == pytest.approx(5)


def test_an_adapter_that_breaks_its_promise_is_an_outage_with_its_words():
    provider = Keys(k=KeyError("choices"))

    async def main() -> LlmResult:
        return await dispatcher(provider, "k", max_hold_s=2).answer(request())

    result = run(main)
    assert (result.status, result.cause) == ("failed", "outage")
    assert "keys raised KeyError: 'choices'" in result.error_message


def test_a_request_that_is_cancelled_gives_its_place_back():
    provider = Keys()

    async def main() -> tuple[int, int, LlmResult]:
        one = dispatcher(provider, "k", concurrency=1)
        first, second = (asyncio.create_task(one.answer(request(n))) for n in range(2))
        await asyncio.sleep(0.5)
        third = asyncio.create_task(one.answer(request(2)))
        first.cancel()
        second.cancel()
        await asyncio.wait([first, second])
        result = await third
        status = one.pools["fast"].status()
        return status.held, status.running, result

    held, running, result = run(main)
    assert (held, running, result.status) == (0, 0, "ok")


class SlowClaims(Claims):
    """Claims that take ten seconds to be acknowledged."""

    async def claim(self, step: StepId, called: str) -> None:
        await super().claim(step, called)
        await asyncio.sleep(10.0)


@pytest.mark.parametrize("late", ["deadline", "allotment"])
def test_a_call_whose_claim_took_too_long_is_not_made_and_not_claimed(late: str):
    provider = Keys()

    async def main() -> tuple[LlmResult, int, bool, int]:
        broker, catalogue = SimulatedBroker(SimulatedLog(Random(1)), "llm"), Catalogue("app", partitions=1)
        await broker.admin.create_topics([TopicSpec(plan.name, plan.partitions) for plan in catalogue.topics()])
        claims = SlowClaims(broker, catalogue, 0, worker="w", kept_s=3_600, of="llm")
        await claims.open()
        one = dispatcher(provider, "k", concurrency=1, effect="at-most-once")
        pool = one.pools["fast"]
        if late == "allotment":
            pool.allot((Part(1.0, 1.0, 1),), until=asyncio.get_running_loop().time() + 5)
        asked = request(wait_s=5 if late == "deadline" else 60)
        result = await one.answer(asked, claims=claims)
        held = claims.holds(asked.id)
        running = pool.status().running
        await claims.close()
        return result, pool.counts.interrupted, held, running

    result, interrupted, held, running = run(main)
    assert (result.cause, result.attempts, interrupted) == ("deadline", 0, 0)
    assert (provider.asked.total(), held, running) == (0, False, 0)


def test_what_a_pool_holds_and_has_left_can_be_seen():
    provider = Keys()

    async def main() -> Any:
        one = dispatcher(provider, "k1", "k2", concurrency=3, tokens_per_minute=60_000, start_full=True)
        tasks = [asyncio.create_task(one.answer(request(n))) for n in range(10)]
        await asyncio.sleep(0.5)
        status = one.pools["fast"].status()
        await asyncio.gather(*tasks)
        return status

    status = run(main)
    assert (status.held, status.running, status.down, status.counts.sent) == (4, 6, "", 6)
    assert status.oldest_s == pytest.approx(0.5, abs=0.01)
    assert [key.running for key in status.keys] == [3, 3]
    assert [key.key_name for key in status.keys] == ["fast/1", "fast/2"]


def test_limits_change_while_requests_wait():
    provider = Keys()

    async def main() -> tuple[list[int], LlmResult, tuple[Any, ...]]:
        one = dispatcher(provider, "k1", "k2", concurrency=1, tokens_per_minute=60_000, start_full=True)
        pool = one.pools["fast"]
        tasks = [asyncio.create_task(one.answer(request(n))) for n in range(12)]
        await asyncio.sleep(0.5)
        running = [pool.status().running]
        pool.set_limits(replace(pool.settings.key_limits(), concurrency=3))
        running.append(pool.status().running)
        pool.set_limits(replace(pool.settings.key_limits(), concurrency=5), key=1)
        running.append(pool.status().running)
        pool.set_limits(KeyLimits(tokens=Limit(60)))
        await asyncio.gather(*tasks[:8])
        return running, await tasks[-1], pool.status().keys

    running, late, keys = run(main)
    assert running == [2, 6, 8]
    assert (late.status, late.cause) == ("failed", "too_large")
    assert "holds 60" in late.error_message
    assert {key.concurrency for key in keys} == {500}  # what is left is what this process connects
