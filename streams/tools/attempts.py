"""Running one tool call: attempts within its timeout, and what each way of failing means. No log, no topics."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson
from pydantic import ValidationError

from streams.agents.signature import explain
from streams.errors import InvalidInput, PayloadTooLarge
from streams.records.steps import ToolCall, ToolResult
from streams.tools.context import CallInfo, current_call
from streams.tools.tool import Tool, inside_tool


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went, for the breaker.

    Attributes:
        failed: The dependency failed; what the tool declares in `raises=` and bad arguments are no failures of it.
        error: Class name of the error.
    """

    failed: bool
    elapsed_s: float
    error: str = ""


class Runner:
    """Runs calls of declared tools.

    Args:
        max_result_bytes: Largest result that is sent back; a larger one is a failure of the tool.
    """

    def __init__(
        self,
        worker: str,
        *,
        executor: Executor,
        random: Random,
        backoff_s: float,
        backoff_ceiling_s: float,
        max_result_bytes: int = 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._executor = executor
        self._random = random
        self._backoff_s = backoff_s
        self._ceiling_s = backoff_ceiling_s
        self._max_result_bytes = max_result_bytes
        self._clock = clock

    async def run(self, tool: Tool[..., Any], call: ToolCall, observe: Callable[[Attempt], None]) -> ToolResult:
        """Return the result of a call, whatever happens in the tool."""
        try:
            arguments = tool.arguments.decode(call.arguments)
        except InvalidInput as error:
            return self.result(call, "invalid", error_type="InvalidInput", error_message=str(error), attempts=0)
        started = self._clock()
        most = 1 if call.effect == "at-most-once" else tool.policy.attempts
        deadline_s = tool.policy.timeout_s
        attempt, error_type, message, cause = 0, "", "", "error"
        while attempt < most:
            attempt += 1
            began = self._clock()
            left = deadline_s - (began - started)
            if left <= 0:
                break
            try:
                value = await self._call(tool, call, arguments, attempt, left)
            except TimeoutError as error:
                timed_out = self._clock() - began >= left - 0.001
                cause = "timeout" if timed_out else "error"
                error_type, message = "TimeoutError", str(error) or f"no answer within {tool.policy.timeout_s:g} s"
            except tool.raises as error:
                observe(Attempt(False, self._clock() - began))
                return self._raised(call, error, attempt, self._clock() - started)
            except Exception as error:
                cause, error_type, message = "error", type(error).__name__, str(error)
            else:
                observe(Attempt(False, self._clock() - began))
                return self._returned(tool, call, value, attempt, self._clock() - started)
            observe(Attempt(True, self._clock() - began, error_type))
            if attempt < most and not await self._back_off(attempt, deadline_s - (self._clock() - started)):
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

    async def _call(
        self, tool: Tool[..., Any], call: ToolCall, arguments: dict[str, Any], attempt: int, left_s: float
    ) -> Any:
        current_call.set(CallInfo(str(call.id), call.invocation, call.tenant, attempt, call.deadline_ms / 1000))
        inside_tool.set(tool.name)
        async with asyncio.timeout(left_s):
            if inspect.iscoroutinefunction(tool.function):
                return await tool.function(**arguments)
            context = copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, lambda: context.run(tool.function, **arguments))

    async def _back_off(self, attempt: int, left_s: float) -> bool:
        """Wait before the next attempt; False when there is no time for one."""
        pause = min(self._ceiling_s, self._backoff_s * 2 ** (attempt - 1)) * (0.5 + self._random.random())
        if pause >= left_s:
            return False
        await asyncio.sleep(pause)
        return True

    def _returned(
        self, tool: Tool[..., Any], call: ToolCall, value: Any, attempts: int, elapsed_s: float
    ) -> ToolResult:
        try:
            data = b"null" if value is None else tool.returns.dump_json(tool.returns.validate_python(value))
            if len(data) > self._max_result_bytes:
                raise PayloadTooLarge(f"result of {call.id}", len(data), self._max_result_bytes, "max_payload_bytes")
        except (ValueError, PayloadTooLarge) as error:
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            return self.result(
                call,
                "failed",
                cause="unencodable",
                error_type=type(error).__name__,
                error_message=f"tool {tool.name!r} returned what cannot be sent: {reason}",
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
