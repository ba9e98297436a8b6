"""Answers LLM requests: which pools are asked, how often, and what becomes of a request that none of them answers.

A rate limit is waited for until the request's deadline. An error of the endpoint is retried with growing pauses; while
a pool cannot answer its fallback pools are asked in order, then it is waited for up to `max_hold_s`. What the provider
refuses (400) is answered with its words.

In a pool that is at-most-once a call is claimed before it is made. Only an answer that proves that nothing was done
(429, 401, 403) takes the claim back; after anything else the request is never sent again, to no pool, by no process.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

import orjson

from streams.errors import BudgetExceeded
from streams.llm.bucket import NeverFits
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.letting_go import LettingGo
from streams.llm.pool import Pool
from streams.llm.provider_errors import Refused, Throttled, Unauthorized, Unavailable
from streams.llm.providers import OnText
from streams.llm.settings import PoolSettings
from streams.llm.tenant_budgets import TenantBudgets
from streams.llm.turn import Down, Expired, Turn
from streams.llm.usage import Usage
from streams.llm.usage_sums import UsageSums
from streams.records.control import BreakerState, OutcomeDigest
from streams.records.steps import LlmRequest, LlmResult
from streams.tools.claims import Claims

IMPATIENT_FAILURES = 2
"""Failed calls after which the next pool is asked, where there is one."""

FIRST_BACKOFF_S = 0.25
LAST_BACKOFF_S = 8.0
BYTES_PER_TOKEN = 4
INTERRUPTED = "it was sent and may have been answered, and the pool is at-most-once"

OpenStream = Callable[[], OnText]
"""Begins a stream of pieces; once for each call, so that a repeated call starts over."""


@dataclass(slots=True)
class _Asked:
    """A request on its way."""

    request: LlmRequest
    chat: ChatRequest
    arrived: float
    deadline: float
    stream: OpenStream | None
    letting_go: LettingGo
    claims: Claims | None = None
    sent_before: bool = False
    attempts: int = 0
    held_s: float = 0.0
    failing_s: float = 0.0
    problem: str = ""


class Dispatcher:
    """Answers requests for models of several pools.

    Args:
        pools: By name, as in `LlmRequest.model`.
        max_result_bytes: Largest answer that a record can carry.
        clock: Seconds of a clock that only grows; *now* is the time of day in seconds since the epoch.
        rng: For the jitter of retries.
        budgets: Of tenants; by default none has one.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        *,
        max_result_bytes: int,
        clock: Callable[[], float],
        now: Callable[[], float],
        rng: Random | None = None,
        budgets: TenantBudgets | None = None,
    ) -> None:
        self.pools = dict(pools)
        self._by_dependency = {pool.guard.dependency: pool for pool in pools.values()}
        self._max_result_bytes = max_result_bytes
        self._clock = clock
        self._now = now
        self._random = rng or Random()
        self._budgets = budgets or TenantBudgets(lambda tenant: None, UsageSums(), now)

    async def answer(
        self,
        request: LlmRequest,
        stream: OpenStream | None = None,
        letting_go: LettingGo | None = None,
        *,
        claims: Claims | None = None,
        sent_before: bool = False,
    ) -> LlmResult:
        """Return the outcome of a request. Failures are outcomes too; nothing is raised for them.

        Args:
            stream: Gets the pieces of the answer while it is written.
            letting_go: Of the partition that the request comes from.
            claims: Of that partition; there must be some where a pool is at-most-once.
            sent_before: It may have reached the provider already, from another process; then a call is counted so.

        Raises:
            BrokerError: A call could not be claimed, and was not made: the partition has another owner, or the log does
                not answer.
        """
        arrived = self._clock()
        pool = self.pools.get(request.model)
        if pool is None:
            known = ", ".join(sorted(self.pools)) or "none"
            problem = f"this dispatcher has no model pool {request.model!r}; it has {known}"
            return _result(request, "failed", "outage", problem, attempts=0)
        try:
            chat = ChatRequest.from_payload(request.request, model="", request_id=_request_id(request))
        except ValueError as error:
            return _result(request, "invalid", "", f"not a request to a model: {error}", attempts=0)
        deadline = arrived + request.deadline_ms / 1000 - self._now()
        asked = _Asked(request, chat, arrived, deadline, stream, letting_go or LettingGo(), claims, sent_before)
        for station, patient in self._route(pool):
            result = await self._ask(station, asked, patient=patient)
            if result is not None:
                return result
        return self._failed(asked, "outage", asked.problem)

    def follow(self, state: BreakerState) -> None:
        """Follow the fleet's record of a breaker."""
        pool = self._by_dependency.get(state.dependency)
        if pool is not None and pool.guard.apply(state):
            pool.pump()

    def drain(self, now_ms: int) -> tuple[OutcomeDigest, ...]:
        """Return what the endpoints did since the last call, for the `outcomes` topic."""
        return tuple(digest for pool in self.pools.values() for digest in pool.guard.drain(now_ms))

    def _route(self, pool: Pool) -> list[tuple[Pool, bool]]:
        """Return which pools are asked one after the other, and whether a pool that is down is waited for."""
        others = [(self.pools[name], False) for name in pool.settings.fallback_pools]
        return [(pool, False), *others, (pool, True), *others] if others else [(pool, True)]

    async def _ask(self, pool: Pool, asked: _Asked, *, patient: bool) -> LlmResult | None:
        """Ask one pool until it answers; None when another one should be asked."""
        settings, request, failures = pool.settings, asked.request, 0
        bound = asked.chat.max_output_tokens or request.max_output_tokens or settings.max_output_tokens
        chat = asked.chat.to(settings.model, bound)
        estimate = Usage(max(1, request.input_tokens or len(request.request) // BYTES_PER_TOKEN), bound)
        claims = self._claims(pool, asked)
        while True:
            if claims is not None and claims.holds(request.id):
                return self._interrupted(asked, pool, INTERRUPTED)
            waits_since = self._clock()
            try:
                with asked.letting_go.waiting():
                    turn = await pool.turn(
                        request.tenant,
                        request.priority,
                        estimate,
                        arrived=asked.arrived,
                        deadline=asked.deadline,
                        hold_s=self._hold_s(settings, asked) if patient else 0.0,
                    )
            except Expired:
                return self._failed(asked, "deadline", asked.problem or "the deadline passed before a key was free")
            except NeverFits as error:
                return self._failed(asked, "too_large", str(error))
            except Down as error:
                asked.problem = asked.problem or f"model pool {pool.name!r} is down: {error}"
                return None
            finally:
                started = self._clock()
                asked.held_s += started - waits_since
            asked.failing_s += turn.down_s
            cost = pool.price.cost(estimate.input_tokens, estimate.output_tokens)
            if (over := self._budgets.problem(request.tenant, estimate.total_tokens, cost)) is not None:
                pool.give_back(turn)
                return self._failed(asked, "budget", over, status="raised", error_type=BudgetExceeded.__name__)
            if claims is not None and not await self._claim(claims, pool, turn, asked):
                continue
            asked.attempts += 1
            pool.counts.sent_again += asked.sent_before and claims is None
            self._budgets.reserve(request.id, request.tenant, estimate.total_tokens, cost)
            try:
                on_text = asked.stream() if asked.stream is not None and request.stream else None
                response = await self._call(pool, turn, chat, asked, on_text)
            except Refused as error:
                return self._failed(asked, "", str(error), status="invalid", error_type=f"Refused{error.status}")
            except Throttled as error:
                if error.retry_after_s is None and "too large" in str(error).lower():
                    return self._failed(asked, "too_large", str(error))
                asked.problem = f"429 from {pool.name!r}: {error}"
            except Unauthorized as error:
                asked.problem = f"a key of {pool.name!r} is not accepted: {error}"
            except Unavailable as error:
                if claims is not None:
                    return self._interrupted(asked, pool, f"{INTERRUPTED}: {error}")
                failures += 1
                asked.sent_before = True  # it may have been counted, and answered, there
                asked.problem = f"{pool.name!r}: {error}"
                pause_s = self._pause(failures, error.headers.retry_after_s)
                asked.failing_s += self._clock() - started + pause_s
                if not patient and failures >= IMPATIENT_FAILURES:
                    return None
                if self._hold_s(settings, asked) <= 0:
                    return None
                if self._clock() + pause_s >= asked.deadline:
                    return self._failed(asked, "deadline", asked.problem)
                with asked.letting_go.waiting():
                    await asyncio.sleep(pause_s)
            else:
                return self._answered(asked, pool, response, estimate, self._clock() - started)
            if claims is not None:
                await claims.withdraw(request.id)

    def _claims(self, pool: Pool, asked: _Asked) -> Claims | None:
        """Return what a call to *pool* is to be claimed with; None where it may be made again."""
        if "at-most-once" not in (pool.settings.effect, self.pools[asked.request.model].settings.effect):
            return None
        assert asked.claims is not None, f"pool {pool.name} is at-most-once, but there are no claims"
        return asked.claims

    async def _claim(self, claims: Claims, pool: Pool, turn: Turn, asked: _Asked) -> bool:
        """Claim a call; False if that took so long that it may not be made any more, and its turn is given back."""
        step = asked.request.id
        try:
            await claims.claim(step, pool.name)
        except BaseException:
            pool.give_back(turn)
            raise
        if not pool.lapsed and self._clock() < asked.deadline:
            return True
        pool.give_back(turn)
        await claims.withdraw(step)
        return False

    def _interrupted(self, asked: _Asked, pool: Pool, problem: str) -> LlmResult:
        pool.counts.interrupted += 1
        return self._failed(asked, "interrupted", problem)

    async def _call(
        self, pool: Pool, turn: Turn, chat: ChatRequest, asked: _Asked, on_text: OnText | None
    ) -> ChatResponse:
        """Make a call; what it reserved of a budget is given back when it fails."""
        try:
            return await pool.call(turn, chat, asked.deadline - self._clock(), on_text)
        except BaseException:
            self._budgets.release(asked.request.id)
            raise

    def _hold_s(self, settings: PoolSettings, asked: _Asked) -> float:
        """Return how much longer a request may be held for an outage."""
        return math.inf if settings.on_outage == "hold" else settings.max_hold_s - asked.failing_s

    def _pause(self, failures: int, retry_after_s: float | None) -> float:
        longest = min(FIRST_BACKOFF_S * 2.0 ** (failures - 1), LAST_BACKOFF_S)
        return max(longest * (0.5 + self._random.random() / 2), min(retry_after_s or 0.0, LAST_BACKOFF_S))

    def _answered(
        self, asked: _Asked, pool: Pool, response: ChatResponse, estimate: Usage, elapsed_s: float
    ) -> LlmResult:
        value = orjson.dumps(
            {
                "text": response.text,
                "tool_calls": [
                    {"id": call.id, "name": call.name, "arguments": call.arguments} for call in response.tool_calls
                ],
                "finish_reason": response.finish_reason,
            }
        )
        used = response.usage or Usage(estimate.input_tokens, math.ceil(len(value) / BYTES_PER_TOKEN))
        cost = pool.price.cost(used.input_tokens, used.output_tokens)
        self._budgets.settle(asked.request.id, used.total_tokens, cost)
        served_by = f"{pool.name}:{pool.settings.model}"
        if len(value) > self._max_result_bytes:
            problem = (
                f"answer of {len(value) / 1e6:.2f} MB exceeds {self._max_result_bytes / 1e6:.2f} MB "
                "(max_payload_bytes); lower max_output_tokens or raise the setting"
            )
            failed = self._failed(asked, "unencodable", problem)
            return replace(
                failed, input_tokens=used.input_tokens, output_tokens=used.output_tokens, cost=cost, served_by=served_by
            )
        request = asked.request
        return LlmResult(
            invocation=request.invocation,
            incarnation=request.incarnation,
            step=request.step,
            model=request.model,
            status="ok",
            value=value,
            attempts=asked.attempts,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cost=cost,
            elapsed_s=elapsed_s,
            held_s=asked.held_s,
            served_by=served_by,
            tenant=request.tenant,
        )

    def _failed(
        self, asked: _Asked, cause: str, problem: str, *, status: str = "failed", error_type: str = ""
    ) -> LlmResult:
        return _result(
            asked.request, status, cause, problem, attempts=asked.attempts, error_type=error_type,
            elapsed_s=self._clock() - asked.arrived, held_s=asked.held_s,
        )  # fmt: skip


def _result(
    request: LlmRequest, status: str, cause: str, problem: str, *, attempts: int, error_type: str = "",
    elapsed_s: float = 0.0, held_s: float = 0.0,
) -> LlmResult:  # fmt: skip
    return LlmResult(
        invocation=request.invocation,
        incarnation=request.incarnation,
        step=request.step,
        model=request.model,
        status=status,
        error_type=error_type,
        error_message=problem,
        cause=cause,
        attempts=attempts,
        elapsed_s=elapsed_s,
        held_s=held_s,
        tenant=request.tenant,
    )


def _request_id(request: LlmRequest) -> str:
    """Return a name that is the same each time the request is sent, and tells the provider nothing about customers."""
    return hashlib.blake2b(str(request.id).encode(), digest_size=16).hexdigest()
