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

THROTTLED_S = 1.0
"""Pause of a tool whose dependency wants fewer calls and does not say for how long."""

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
        """Let the calls of a tool that wait for a place look at its breaker again, if that refuses calls now."""
        if self._guards[self._tools[tool].dependency].would_refuse(self._now_ms()) is not None:
            self.places[tool].nudge()
            self._process.nudge()

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
                refused = await self._enter(tool, call, places)
        except TimeoutError:
            return self._failed(call, "expired", f"no place among {tool.policy.concurrency} before its deadline")
        if refused is not None:
            return self._failed(call, "open", refused.reason)
        try:
            return await self._make(tool, call, arguments, ticket, claims)
        finally:
            places.leave()

    async def _enter(self, tool: Tool[..., Any], call: ToolCall, places: Places) -> Refusal | None:
        """Take a place. While a breaker is open nobody waits for one, except the call that is its probe.

        The breaker's leave comes last, when the call is about to be made: a probe's lease does not wait in queues.
        """
        guard = self._guards[tool.dependency]
        while True:
            if not call.probe and (reason := guard.would_refuse(self._now_ms(), count=True)) is not None:
                return reason
            if await places.enter():
                return None

    async def _make(
        self,
        tool: Tool[..., Any],
        call: ToolCall,
        arguments: dict[str, Any],
        ticket: Ticket,
        claims: Claims,
    ) -> ToolResult:
        pacer = self.pacers[tool.name]
        if not await pacer.wait(self._left_s(call)):
            return self._failed(call, "expired", "its turn by the tool's rate comes after its deadline")
        guard = self._guards[tool.dependency]
        while not await self._process.enter():
            if not call.probe and (refused := guard.would_refuse(self._now_ms(), count=True)) is not None:
                return self._failed(call, "open", refused.reason)
        probe: Admitted | None = None
        try:
            admitted = guard.admit(self._now_ms(), call.probe)
            if isinstance(admitted, Refusal):
                return self._failed(call, "open", admitted.reason)
            probe = admitted if admitted.probe else None
            ticket.begin(call.effect)
            if call.effect == "at-most-once":
                if claims.holds(call.id):
                    return self._failed(call, "interrupted", INTERRUPTED)
                await claims.claim(call.id, call.tool)
            if (left_s := self._left_s(call)) <= 0:
                return self._failed(call, "expired", "its deadline passed while it waited for its turn")
            if not ticket.wanted:
                return self._failed(call, "cancelled", "nobody waits for it any more")
            budget = self.budgets[tool.name]
            budget.earn()

            def observe(attempt: Attempt) -> None:
                nonlocal probe
                probe = None
                self._observe(tool, admitted, attempt)

            terms = Terms(
                observe=observe,
                wanted=lambda: ticket.wanted,
                turn=pacer.wait,
                # A call that began before its breaker opened is not made again while that is open.
                retry=lambda: guard.would_refuse(self._now_ms()) is None and budget.spend(self._clock()),
                left_s=left_s,
                once=bool(admitted.probe),
            )
            return await self._runner.run(tool, call, arguments, terms)
        finally:
            if probe is not None:
                guard.abandon(probe, self._now_ms())
            self._process.leave()

    def _observe(self, tool: Tool[..., Any], admitted: Admitted, attempt: Attempt) -> None:
        self._attempts[tool.name, "failed" if attempt.failed else "ok"].add(attempt.elapsed_s)
        guard, now_ms = self._guards[tool.dependency], self._now_ms()
        if attempt.throttled:
            self.pacers[tool.name].hold(attempt.retry_after_s or THROTTLED_S)
            guard.throttled(admitted, now_ms)
            return
        changed = guard.record(
            admitted, attempt.failed, attempt.elapsed_s, now_ms, attempt.error, attempt.retry_after_s
        )
        if changed is not None:
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

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def _left_s(self, call: ToolCall) -> float:
        return call.deadline_ms / 1000 - self._now()

    def _failed(self, call: ToolCall, cause: str, message: str) -> ToolResult:
        return self._runner.result(call, "failed", cause=cause, error_message=message, attempts=0)
