"""The role `tools`: runs the calls of the partitions that it owns, many at a time, each tool within its concurrency."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from random import Random
from typing import Any

from streams.app import App
from streams.breakers import BreakerSettings, Guard
from streams.breakers.feed import breakers_table, report_outcomes
from streams.breakers.refusal import Refusal
from streams.broker.owned_queue import OwnedQueue, QueuePlan, Session
from streams.broker.port import Broker, LogRecord, Message
from streams.errors import CodecError
from streams.observe.distribution import Distributions
from streams.observe.registry import TOOL_ATTEMPT_SECONDS
from streams.records import decode_as, encode, headers
from streams.records.control import BreakerState, OutcomeDigest
from streams.records.ids import StepId
from streams.records.steps import ToolCall, ToolResult
from streams.records.topics import Catalogue
from streams.tools.attempts import Attempt, Runner
from streams.tools.claims import Claims
from streams.tools.connections import close_all
from streams.tools.settings import ToolSettings
from streams.tools.tool import Tool


class ToolRole:
    """Works tool calls until cancelled.

    Args:
        breakers: Thresholds of the tools' breakers.
        random: Source of jitter.

    Attributes:
        attempts: How long attempts of each tool took.
    """

    def __init__(
        self,
        app: App,
        broker: Broker,
        catalogue: Catalogue,
        settings: ToolSettings,
        *,
        breakers: BreakerSettings | None = None,
        instance_id: str | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._app = app
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._now = now
        self._random = random or Random()
        self.attempts = Distributions(TOOL_ATTEMPT_SECONDS)
        self.worker = f"{socket.gethostname()}-{os.getpid()}"
        thresholds = breakers or BreakerSettings()
        self.guards = {
            tool.dependency: Guard(
                tool.dependency,
                thresholds.policy_of(tool.dependency),
                f"tools-{self.worker}",
                self._random.random,
                longest_call_s=tool.policy.timeout_s,
            )
            for tool in app.tools.values()
        }
        self._slots = {name: asyncio.Semaphore(tool.policy.concurrency) for name, tool in app.tools.items()}
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="tool")
        self._runner = Runner(
            self.worker,
            executor=self._executor,
            random=self._random,
            backoff_s=settings.backoff_s,
            backoff_ceiling_s=settings.backoff_ceiling_s,
            max_result_bytes=catalogue.max_payload_bytes,
            clock=clock,
        )
        plan = QueuePlan(
            namespace=catalogue.namespace,
            role="tools",
            anchor=catalogue.name("owners"),
            calls=(
                catalogue.name("tool-calls"),
                *(catalogue.name("tool-calls", lane) for lane in catalogue.lanes.get("tool-calls", ())),
            ),
            results=catalogue.name("tool-results"),
            dead_letters=catalogue.name("dead-letters"),
            history_s=catalogue.history_s,
            max_open=settings.max_open,
        )
        self.queue = OwnedQueue(broker, plan, self._open, instance_id=instance_id, now=now)

    async def run(self) -> None:
        """Run until cancelled: take no more calls, let those under way end for a moment, let go."""
        try:
            async with (
                breakers_table(self._broker, self._catalogue, self._follow, random=self._random),
                self._broker.producer() as producer,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(
                    report_outcomes(
                        producer,
                        self._catalogue,
                        self._digests,
                        every_s=self._settings.breaker_report_s,
                        now_ms=lambda: int(self._now() * 1000),
                    )
                )
                await self.queue.run()
        finally:
            await close_all(self._app.connections)
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _follow(self, state: BreakerState) -> None:
        if (guard := self.guards.get(state.dependency)) is not None:
            guard.apply(state)

    def _digests(self, now_ms: int) -> Iterable[OutcomeDigest]:
        for guard in self.guards.values():
            yield from guard.drain(now_ms)

    def _open(self, partition: int) -> AbstractAsyncContextManager[Session]:
        return self._session(partition)

    @asynccontextmanager
    async def _session(self, partition: int) -> AsyncIterator[Session]:
        claims = Claims(
            self._broker,
            self._catalogue,
            partition,
            worker=self.worker,
            kept_s=self._settings.claims_kept_s,
            now=self._now,
        )
        try:
            await claims.open()
            yield ToolSession(self, partition, claims)
        finally:
            await claims.close()

    async def execute(self, call: ToolCall, claims: Claims) -> ToolResult:
        """Return the result of a call: run, or the reason why it was not."""
        if call.deadline_ms <= self._now() * 1000:
            return self._runner.result(call, "failed", cause="expired", attempts=0)
        tool = self._app.tools.get(call.tool)
        if tool is None:
            return await self._wait_for_deploy(call)
        async with self._slots[call.tool]:
            if call.deadline_ms <= self._now() * 1000:
                return self._runner.result(call, "failed", cause="expired", attempts=0)
            return await self._guarded(tool, call, claims)

    async def _guarded(self, tool: Tool[..., Any], call: ToolCall, claims: Claims) -> ToolResult:
        guard = self.guards[tool.dependency]
        admitted = guard.admit(int(self._now() * 1000), call.probe)
        if isinstance(admitted, Refusal):
            return self._runner.result(call, "failed", cause="open", error_message=admitted.reason, attempts=0)
        if call.effect == "at-most-once":
            if claims.holds(call.id):
                message = "an earlier worker had started it and left no result; it may have happened"
                return self._runner.result(call, "failed", cause="interrupted", error_message=message, attempts=0)
            await claims.claim(call)

        def observe(attempt: Attempt) -> None:
            self.attempts[tool.name, "failed" if attempt.failed else "ok"].add(attempt.elapsed_s)
            guard.record(admitted, attempt.failed, attempt.elapsed_s, int(self._now() * 1000), attempt.error)

        return await self._runner.run(tool, call, observe)

    async def _wait_for_deploy(self, call: ToolCall) -> ToolResult:
        """A tool that this worker does not have: a rolling deploy. Its end, or a rebalance, gives the call to another.

        The call stays open meanwhile, so its offset is not committed and the next owner reads it again.
        """
        await asyncio.sleep(max(0.0, call.deadline_ms / 1000 - self._now()))
        return self._runner.result(
            call, "failed", cause="expired", error_message=f"no worker has tool {call.tool!r}", attempts=0
        )


class ToolSession:
    """Calls of one partition."""

    def __init__(self, role: ToolRole, partition: int, claims: Claims) -> None:
        self._role = role
        self._partition = partition
        self._claims = claims
        self._answered: set[StepId] = set()
        self._started: set[StepId] = set()
        self._write: Callable[..., Message] = partial(
            Message, role._catalogue.name("tool-results"), partition=partition, headers=headers.internal("tool-result")
        )

    def answered(self, result: LogRecord) -> None:
        """Note a result that an earlier owner has written."""
        try:
            self._answered.add(decode_as(ToolResult, result.value or b"").id)
        except CodecError:
            pass  # not a result: the shard sets it aside, and the call is answered again

    async def handle(self, record: LogRecord) -> Message | None:
        """Run one call, unless it was answered already."""
        call = decode_as(ToolCall, record.value or b"")
        if call.id in self._answered or call.id in self._started:
            return None
        self._started.add(call.id)
        try:
            result = await self._role.execute(call, self._claims)
        finally:
            self._started.discard(call.id)
        return self._write(key=record.key, value=encode(result))
