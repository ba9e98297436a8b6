"""Running one tool call: attempts within its timeout, and what each way of failing means. No log, no topics."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson
from pydantic import ValidationError

from streams.agents.signature import explain
from streams.errors import InvalidInput, PayloadTooLarge, Throttled, Unavailable
from streams.records.steps import ToolCall, ToolResult
from streams.tools.context import CallInfo, current_call
from streams.tools.threads import Threads
from streams.tools.tool import Tool, inside_tool


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went, for the breaker.

    Attributes:
        failed: The dependency failed; what the tool declares in `raises=` and bad arguments are no failures of it.
        error: Class name of the error.
        retry_after_s: For how long the dependency asked to be left alone.
        throttled: It wants fewer calls; no failure, and nothing for a breaker to count.
    """

    failed: bool
    elapsed_s: float
    error: str = ""
    retry_after_s: float = 0.0
    throttled: bool = False


async def _at_once(most_s: float) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call may do; by default everything.

    Attributes:
        observe: Told of each attempt.
        wanted: Tells whether somebody still waits for the answer.
        turn: Waits for the turn of a further attempt, at most so many seconds; False when it does not come by then.
        retry: Takes a retry or a hedge out of the tool's budget; False when there is none left.
        left_s: Seconds until the call's deadline.
        once: Make one attempt and no hedge: the call is a breaker's probe.
    """

    observe: Callable[[Attempt], None] = lambda attempt: None
    wanted: Callable[[], bool] = lambda: True
    turn: Callable[[float], Awaitable[bool]] = _at_once
    retry: Callable[[], bool] = lambda: True
    left_s: float = float("inf")
    once: bool = False


class Runner:
    """Runs calls of declared tools.

    Args:
        max_result_bytes: Largest result that is sent back; a larger one is a failure of the tool.
    """

    def __init__(
        self,
        worker: str,
        *,
        threads: Threads,
        random: Random,
        backoff_s: float,
        backoff_ceiling_s: float,
        max_result_bytes: int = 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._threads = threads
        self._random = random
        self._backoff_s = backoff_s
        self._ceiling_s = backoff_ceiling_s
        self._max_result_bytes = max_result_bytes
        self._clock = clock

    def parse(self, tool: Tool[..., Any], call: ToolCall) -> dict[str, Any] | ToolResult:
        """Return the call's arguments, or the result that tells the caller what is wrong with them."""
        try:
            return tool.arguments.decode(call.arguments)
        except InvalidInput as error:
            return self.result(call, "invalid", error_type="InvalidInput", error_message=str(error), attempts=0)

    async def run(
        self, tool: Tool[..., Any], call: ToolCall, arguments: dict[str, Any], terms: Terms | None = None
    ) -> ToolResult:
        """Return the result of a call, whatever happens in the tool."""
        terms = terms or Terms()
        started = self._clock()
        most = 1 if terms.once or call.effect == "at-most-once" else tool.policy.attempts
        timeout_s = min(tool.policy.timeout_s, terms.left_s)
        attempt, error_type, message, cause = 0, "", "", "timeout"
        while attempt < most:
            attempt += 1
            began, asked_s, throttled = self._clock(), 0.0, False
            left = timeout_s - (began - started)
            if left <= 0:
                attempt -= 1
                break
            try:
                value = await self._attempt(tool, call, arguments, attempt, left, terms)
            except TimeoutError as error:
                timed_out = self._clock() - began >= left - 0.001
                if not timed_out and isinstance(error, tool.raises):
                    terms.observe(Attempt(False, self._clock() - began))
                    return self._raised(call, error, attempt, self._clock() - started)
                cause = "timeout" if timed_out else "error"
                error_type, message = "TimeoutError", str(error) or f"no answer within {timeout_s:g} s"
            except tool.raises as error:
                terms.observe(Attempt(False, self._clock() - began))
                return self._raised(call, error, attempt, self._clock() - started)
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                cause, error_type, message = "error", type(error).__name__, str(error) or "the tool cancelled itself"
            except (Exception, SystemExit) as error:
                cause, error_type, message = "error", type(error).__name__, str(error)
                throttled = isinstance(error, Throttled)
                cause = "throttled" if throttled else "error"
                asked_s = error.retry_after_s if isinstance(error, Throttled | Unavailable) else 0.0
            else:
                terms.observe(Attempt(False, self._clock() - began))
                return self._returned(tool, call, value, attempt, self._clock() - started)
            terms.observe(Attempt(not throttled, self._clock() - began, error_type, asked_s, throttled))
            left = timeout_s - (self._clock() - started)
            if attempt < most and not await self._again(attempt, left, asked_s, terms):
                break
        return self.result(
            call,
            "failed",
            cause=cause,
            error_type=error_type,
            error_message=message[:4_000],
            attempts=attempt,
            elapsed_s=self._clock() - started,
        )

    def result(self, call: ToolCall, status: str, **fields: Any) -> ToolResult:
        """Return a result for *call*."""
        return ToolResult(
            invocation=call.invocation,
            incarnation=call.incarnation,
            step=call.step,
            tool=call.tool,
            status=status,
            worker=self._worker,
            **fields,
        )

    async def _attempt(
        self, tool: Tool[..., Any], call: ToolCall, arguments: dict[str, Any], attempt: int, left_s: float, terms: Terms
    ) -> Any:
        current_call.set(CallInfo(str(call.id), call.invocation, call.tenant, attempt, call.deadline_ms / 1000))
        inside_tool.set(tool.name)
        async with asyncio.timeout(left_s):
            hedge_s = tool.policy.hedge_s
            if hedge_s is None or hedge_s >= left_s or terms.once:
                return await self._call(tool, arguments)
            return await self._hedged(tool, arguments, hedge_s, left_s, terms)

    async def _call(self, tool: Tool[..., Any], arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(tool.function):
            return await tool.function(**arguments)
        context = copy_context()
        return await self._threads.run(tool.name, lambda: context.run(tool.function, **arguments))

    async def _hedged(
        self, tool: Tool[..., Any], arguments: dict[str, Any], hedge_s: float, left_s: float, terms: Terms
    ) -> Any:
        """Make the call; if it has not ended after *hedge_s*, make it a second time, and take what is good first."""
        calls = {asyncio.ensure_future(self._call(tool, arguments))}
        try:
            await asyncio.wait(calls, timeout=hedge_s)
            if (
                not any(call.done() for call in calls)
                and terms.wanted()
                and terms.retry()
                and await terms.turn(left_s - hedge_s)
            ):
                calls.add(asyncio.ensure_future(self._call(tool, arguments)))
            waiting = set(calls)
            while True:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                answers = [call for call in done if _is_answer(call, tool)]
                if answers or not waiting:
                    return (answers or list(done))[0].result()
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _again(self, attempt: int, left_s: float, asked_s: float, terms: Terms) -> bool:
        """Wait before the next attempt; False when there is no time for one, no budget, or nobody who waits.

        Args:
            asked_s: For how long the dependency asked to be left alone.
        """
        pause = min(self._ceiling_s, self._backoff_s * 2 ** (attempt - 1)) * (0.5 + self._random.random())
        pause = max(pause, asked_s)
        if pause >= left_s or not terms.wanted() or not terms.retry():
            return False
        await asyncio.sleep(pause)
        return terms.wanted() and await terms.turn(left_s - pause)

    def _returned(
        self, tool: Tool[..., Any], call: ToolCall, value: Any, attempts: int, elapsed_s: float
    ) -> ToolResult:
        try:
            data = b"null" if value is None else tool.returns.dump_json(tool.returns.validate_python(value))
            if len(data) > self._max_result_bytes:
                raise PayloadTooLarge(f"result of {call.id}", len(data), self._max_result_bytes, "max_payload_bytes")
        except Exception as error:  # a validator or serializer of the user's own may raise anything
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            return self.result(
                call,
                "failed",
                cause="unencodable",
                error_type=type(error).__name__,
                error_message=f"tool {tool.name!r} returned what cannot be sent: {reason}"[:4_000],
                attempts=attempts,
                elapsed_s=elapsed_s,
            )
        return self.result(call, "ok", value=data, attempts=attempts, elapsed_s=elapsed_s)

    def _raised(self, call: ToolCall, error: BaseException, attempts: int, elapsed_s: float) -> ToolResult:
        try:
            arguments = orjson.dumps(list(error.args))
        except TypeError:
            arguments = orjson.dumps([str(error)])
        if len(arguments) > self._max_result_bytes:
            arguments = orjson.dumps([str(error)[:4_000]])
        return self.result(
            call,
            "raised",
            value=arguments,
            error_type=type(error).__name__,
            error_message=str(error)[:4_000],
            attempts=attempts,
            elapsed_s=elapsed_s,
        )


def _is_answer(call: asyncio.Future[Any], tool: Tool[..., Any]) -> bool:
    """Tell whether a call has ended in what the caller should get: a value, or an error that the tool declares."""
    if call.cancelled():
        return False
    error = call.exception()
    return error is None or isinstance(error, tool.raises)
