"""The way of one client of one process to the simulated log: how long a request takes, and whether it gets there.

Requests of one link arrive in the order in which they were made, as on a TCP connection. A request whose sender has
died or given up may still arrive, and one that was under way when an outage began may have been carried out without
the sender learning of it. Both are drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from streams.broker.simulated.log import SimulatedLog
from streams.broker.simulated.process import Process
from streams.broker.simulated.timing import LOG_CONTEXT
from streams.errors import BrokerError, BrokerUnavailable

T = TypeVar("T")
ADDRESS = "simulated"


class Link:
    """See the module."""

    __slots__ = ("_last_s", "log", "process")

    def __init__(self, log: SimulatedLog, process: Process) -> None:
        self.log = log
        self.process = process
        self._last_s = 0.0

    async def request(
        self, doing: str, operation: Callable[[], T], timed_out: Callable[[str], BrokerError] = BrokerUnavailable
    ) -> T:
        """Let *operation* happen at the log and return what it returned.

        Args:
            timed_out: Makes the error for the case that no answer comes within the request timeout.
        """
        process = self.process
        if not process.running:
            await process.resumed()
        loop = asyncio.get_running_loop()
        now = loop.time()
        answer: asyncio.Future[T] = loop.create_future()
        request = _Request(self, doing, operation, timed_out, now, answer)
        loop.call_at(self.after(now + self.log.latency_s()), request.arrive, context=LOG_CONTEXT)
        result = await answer
        if not process.running:
            await process.resumed()
        return result

    def after(self, arrival_s: float) -> float:
        """Return *arrival_s*, or the moment after the latest request of this link if that is later."""
        self._last_s = arrival_s = max(arrival_s, self._last_s + 1e-6)
        return arrival_s


class _Request:
    """One request under way."""

    __slots__ = ("answer", "doing", "link", "operation", "outcome", "sent_s", "timed_out")

    def __init__(
        self,
        link: Link,
        doing: str,
        operation: Callable[[], Any],
        timed_out: Callable[[str], BrokerError],
        sent_s: float,
        answer: asyncio.Future[Any],
    ) -> None:
        self.link = link
        self.doing = doing
        self.operation = operation
        self.timed_out = timed_out
        self.sent_s = sent_s
        self.answer = answer
        self.outcome: tuple[Any, Exception | None] | None = None

    def arrive(self) -> None:
        log, answer = self.link.log, self.answer
        if (answer.done() or self.link.process.dead) and (self.outcome is not None or log.random.random() < 0.5):
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < log.down_until_s:
            self._meet_outage(loop, now)
            return
        if self.outcome is None:
            self._carry_out()
        assert self.outcome is not None
        if not answer.done():
            result, error = self.outcome
            if error is None:
                answer.set_result(result)
            else:
                self._raise(error)

    def _carry_out(self) -> None:
        try:
            self.outcome = (self.operation(), None)
        except (BrokerError, ValueError) as error:
            self.outcome = (None, error)

    def _meet_outage(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        log = self.link.log
        if self.outcome is None and self.sent_s < log.down_since_s and log.random.random() < 0.5:
            # It got there just before; only the answer is lost, and is given when the client tries again.
            self._carry_out()
        deadline = self.sent_s + log.timing.request_timeout_s
        if log.down_until_s < deadline:
            again = self.link.after(log.down_until_s + log.random.random() * 0.1)
            loop.call_at(again, self.arrive, context=LOG_CONTEXT)
        else:
            loop.call_at(max(deadline, now), self._time_out, context=LOG_CONTEXT)

    def _time_out(self) -> None:
        if not self.answer.done():
            limit_s = self.link.log.timing.request_timeout_s
            self._raise(self.timed_out(f"the {ADDRESS} log gave no answer within {limit_s:g} s ({self.doing})"))

    def _raise(self, error: Exception) -> None:
        self.answer.set_exception(error)
        # Who asked may have died meanwhile; then nobody is to be told that nobody has read it.
        self.answer._log_traceback = False
