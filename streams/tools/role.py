"""The role `tools`: runs the calls of the partitions that it owns, many at a time, each tool within its concurrency."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random

import structlog

from streams.app import App
from streams.breakers import BreakerSettings, Guard
from streams.breakers.feed import breakers_table, report_outcomes
from streams.broker.owned_queue import OwnedQueue, QueuePlan, Session
from streams.broker.port import Broker, Message, Producer
from streams.errors import BrokerError
from streams.observe.distribution import Distributions
from streams.observe.registry import TOOL_ATTEMPT_SECONDS
from streams.records import encode, headers
from streams.records.control import BreakerState, OutcomeDigest
from streams.records.ids import agent_of
from streams.records.steps import ToolCall, ToolNotice
from streams.records.topics import Catalogue
from streams.tools.attempts import Runner
from streams.tools.claims import Claims
from streams.tools.connections import close_all
from streams.tools.execution import Execution
from streams.tools.session import ToolSession
from streams.tools.settings import ToolSettings
from streams.tools.shares import Shares
from streams.tools.threads import Threads

log = structlog.get_logger(__name__)


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
        self.threads = Threads(settings.max_abandoned_threads)
        runner = Runner(
            self.worker,
            threads=self.threads,
            random=self._random,
            backoff_s=settings.backoff_s,
            backoff_ceiling_s=settings.backoff_ceiling_s,
            max_result_bytes=catalogue.max_payload_bytes,
            clock=clock,
        )
        self.execution = Execution(
            app.tools,
            settings,
            self.guards,
            runner,
            attempts=self.attempts,
            notify=self._notify,
            now=self._now,
            clock=clock,
        )
        self._shares = Shares(app.tools, catalogue, settings.max_open)
        self._tools_of = {tool.dependency: name for name, tool in app.tools.items()}
        self._owned: set[int] = set()
        self._producer: Producer | None = None
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
            overflow=catalogue.name("tool-overflow"),
            max_parked=settings.max_parked,
        )
        self.queue = OwnedQueue(
            broker, plan, self._open, instance_id=instance_id, drain_s=settings.drain_s, now=self._now
        )

    async def run(self) -> None:
        """Run until cancelled: take no more calls, let those under way end for a moment, let go.

        Raises:
            ToolsStuck: More threads of tools than this process keeps have not returned; it must end.
        """
        try:
            async with (
                breakers_table(self._broker, self._catalogue, self._follow, random=self._random),
                self._broker.producer() as self._producer,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(
                    report_outcomes(
                        self._producer,
                        self._catalogue,
                        self._digests,
                        every_s=self._settings.breaker_report_s,
                        now_ms=lambda: int(self._now() * 1000),
                    )
                )
                group.create_task(self.threads.overrun())
                await self.queue.run()
        finally:
            await close_all(self._app.connections)
            self.threads.close()

    def _follow(self, state: BreakerState) -> None:
        if (guard := self.guards.get(state.dependency)) is not None:
            guard.apply(state)
            self.execution.look_again(self._tools_of[state.dependency])

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
            self._owned.add(partition)
            self._share_rates()
            yield ToolSession(self.execution, self._shares, self._catalogue, partition, claims)
        finally:
            self._owned.discard(partition)
            self._share_rates()
            await claims.close()

    def _share_rates(self) -> None:
        """Use the part of each tool's rate that goes with the partitions owned, so that all workers keep to it."""
        if self._owned:
            for pacer in self.execution.pacers.values():
                pacer.share(len(self._owned) / self._catalogue.partitions)

    async def _notify(self, call: ToolCall, reason: str) -> None:
        assert self._producer is not None
        notice = ToolNotice(
            call.invocation, call.incarnation, call.step, call.tool, reason, self.worker, int(self._now() * 1000)
        )
        key = agent_of(call.invocation).encode()
        log.warning("a call waits", invocation=call.invocation, step=call.step, tool=call.tool, reason=reason)
        try:
            await self._producer.send(
                Message(
                    self._catalogue.name("tool-results"), key, encode(notice), headers=headers.internal("tool-notice")
                )
            )
        except BrokerError as error:
            log.warning("the shard was not told why a call waits", invocation=call.invocation, reason=str(error))
