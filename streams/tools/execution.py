"""Making calls: each within its tool's places and pace, past its breaker, claimed first where it must not happen twice.

What one tool does costs no other: it waits for its own places, its own turn, its own budget of retries. All of them
share the places of the process, which a call takes last, when it is about to be made.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from streams.breakers import Guard
from streams.breakers.guard import Admitted
from streams.breakers.refusal import Refusal
from streams.observe.distribution import Distributions
from streams.records.steps import ToolCall, ToolResult
from streams.tools.attempts import Attempt, Runner, Terms
from streams.tools.bulkhead import Pacer, Places
from streams.tools.claims import Claims
from streams.tools.retry_budget import RetryBudget
from streams.tools.settings import ToolSettings
from streams.tools.ticket import Ticket
from streams.tools.tool import Tool

INTERRUPTED = "an earlier worker had started it and left no result; it may have happened"

Notify = Callable[[ToolCall, str], Awaitable[None]]
"""Tells the shard why a call is not answered yet."""


class Execution:
    """Makes the calls of a process.

    Args:
        guards: Breakers, by dependency.
        attempts: Takes how long attempts of each tool took.
        notify: See `Notify`.
        now: Seconds since the epoch; *clock* is one that only grows.

    Attributes:
        counts: Calls by tool and how they ended: the status, or the cause of the failure.
        unknown: Calls of tools that this process does not have, waiting.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool[..., Any]],
        settings: ToolSettings,
        guards: Mapping[str, Guard],
        runner: Runner,
        *,
        attempts: Distributions,
        notify: Notify,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.unknown: Counter[str] = Counter()
        self.places = {name: Places(tool.policy.concurrency) for name, tool in tools.items()}
        self.pacers = {name: Pacer(tool.policy.rate, clock) for name, tool in tools.items()}
        self.budgets = {name: RetryBudget(settings.retry_ratio, settings.retry_per_s, clock()) for name in tools}
        self._tools = tools
        self._guards = guards
        self._runner = runner
        self._process = Places(settings.concurrency)
        self._attempts = attempts
        self._notify = notify
        self._now = now
        self._clock = clock

    async def run(self, call: ToolCall, ticket: Ticket, claims: Claims) -> ToolResult:
        """Return the result of a call: made, or the reason why it was not."""
        result = await self._run(call, ticket, claims)
        self.counts[call.tool, result.cause or result.status] += 1
        return result

    def cancelled(self, call: ToolCall) -> ToolResult:
        """Return the result of a call that was stopped because nobody waits for it."""
        self.counts[call.tool, "cancelled"] += 1
        return self._failed(call, "cancelled", "nobody waits for it any more")

    def look_again(self, tool: str) -> None:
        """Let the calls of a tool that wait for a place look at its breaker again, if it is not closed."""
        if not _is_calm(self._guards[self._tools[tool].dependency]):
            self.places[tool].nudge()

    async def _run(self, call: ToolCall, ticket: Ticket, claims: Claims) -> ToolResult:
        left_s = self._left_s(call)
        if left_s <= 0:
            return self._failed(call, "expired", "its deadline had passed before it began")
        tool = self._tools.get(call.tool)
        if tool is None:
            return await self._wait_for_deploy(call, left_s)
        arguments = self._runner.parse(tool, call)
        if isinstance(arguments, ToolResult):
            return arguments
        places = self.places[tool.name]
        try:
            async with asyncio.timeout(left_s):
                admitted = await self._enter(tool, call, places)
        except TimeoutError:
            return self._failed(call, "expired", f"no place among {tool.policy.concurrency} before its deadline")
        if isinstance(admitted, Refusal):
            return self._failed(call, "open", admitted.reason)
        try:
            return await self._make(tool, call, arguments, ticket, claims, admitted)
        finally:
            places.leave()

    async def _enter(self, tool: Tool[..., Any], call: ToolCall, places: Places) -> Admitted | Refusal:
        """Take a place, and the breaker's leave. While a breaker is open nobody waits for a place."""
        guard = self._guards[tool.dependency]
        admitted: Admitted | Refusal | None = None
        while True:
            if admitted is None and (call.probe or not _is_calm(guard)):
                admitted = guard.admit(int(self._now() * 1000), call.probe)
                if isinstance(admitted, Refusal):
                    return admitted
            if await places.enter():
                break
        if admitted is None:
            admitted = guard.admit(int(self._now() * 1000), call.probe)
            if isinstance(admitted, Refusal):
                places.leave()
        return admitted

    async def _make(
        self,
        tool: Tool[..., Any],
        call: ToolCall,
        arguments: dict[str, Any],
        ticket: Ticket,
        claims: Claims,
        admitted: Admitted,
    ) -> ToolResult:
        pacer = self.pacers[tool.name]
        if not await pacer.wait(self._left_s(call)):
            return self._failed(call, "expired", "its turn by the tool's rate comes after its deadline")
        while not await self._process.enter():
            pass  # nobody nudges here
        try:
            ticket.begin(call.effect)
            if call.effect == "at-most-once":
                if claims.holds(call.id):
                    return self._failed(call, "interrupted", INTERRUPTED)
                await claims.claim(call)
            if (left_s := self._left_s(call)) <= 0:
                return self._failed(call, "expired", "its deadline passed while it waited for its turn")
            if not ticket.wanted:
                return self._failed(call, "cancelled", "nobody waits for it any more")
            budget = self.budgets[tool.name]
            budget.earn()
            terms = Terms(
                observe=lambda attempt: self._observe(tool, admitted, attempt),
                wanted=lambda: ticket.wanted,
                turn=pacer.wait,
                retry=lambda: budget.spend(self._clock()),
                left_s=left_s,
            )
            return await self._runner.run(tool, call, arguments, terms)
        finally:
            self._process.leave()

    def _observe(self, tool: Tool[..., Any], admitted: Admitted, attempt: Attempt) -> None:
        self._attempts[tool.name, "failed" if attempt.failed else "ok"].add(attempt.elapsed_s)
        guard = self._guards[tool.dependency]
        now_ms = int(self._now() * 1000)
        if guard.record(admitted, attempt.failed, attempt.elapsed_s, now_ms, attempt.error) is not None:
            self.look_again(tool.name)

    async def _wait_for_deploy(self, call: ToolCall, left_s: float) -> ToolResult:
        """A tool that this worker does not have: a rolling deploy. Its end, or a rebalance, gives the call to another.

        The call stays open meanwhile, so its offset is not committed and the next owner reads it again.
        """
        self.unknown[call.tool] += 1
        try:
            await self._notify(call, f"the worker has no tool {call.tool!r}; deploy it")
            await asyncio.sleep(left_s)
        finally:
            self.unknown[call.tool] -= 1
        return self._failed(call, "expired", f"no worker had tool {call.tool!r} before its deadline")

    def _left_s(self, call: ToolCall) -> float:
        return call.deadline_ms / 1000 - self._now()

    def _failed(self, call: ToolCall, cause: str, message: str) -> ToolResult:
        return self._runner.result(call, "failed", cause=cause, error_message=message, attempts=0)


def _is_calm(guard: Guard) -> bool:
    """Tell whether the breaker lets everybody pass, so that it need not be asked before there is a place."""
    return guard.phase in ("closed", "forced-closed", "metrics-only")
