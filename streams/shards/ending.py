"""How an invocation ends: the result that its handler's end makes, and the results of those that never ran."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from streams.agents.agent import Agent
from streams.errors import HandlerError, InvalidInput, PayloadTooLarge
from streams.records.compiled import compile_maker
from streams.records.ids import input_digest
from streams.records.invocations import Invocation, Result
from streams.shards.live import Live

MAX_MESSAGE_CHARS = 4_000
_make_result = compile_maker(Result)


@dataclass(frozen=True, slots=True)
class Ending:
    """A result, and the state records that become visible with it."""

    result: Result
    changes: tuple[tuple[str, bytes], ...] = ()


def conclude(live: Live, agent: Agent[Any, Any], now: float, max_payload_bytes: int) -> Ending:
    """Return what the end of a handler makes of its invocation."""
    run = live.run
    assert run is not None
    assert run.task is not None
    if run.task.cancelled():
        return Ending(_ended(live, now, "cancelled" if live.cancelled else "failed", _cancelled(live)))
    if (error := run.task.exception()) is not None:
        return Ending(_ended(live, now, "failed", error))
    try:
        value = agent.encode_output(run.task.result())
        if len(value) > max_payload_bytes:
            raise PayloadTooLarge(f"result of {live.id}", len(value), max_payload_bytes, "max_payload_bytes")
        changes = tuple(run.collect())
        for record, data in changes:
            if len(data) > max_payload_bytes:
                what = f"state record {record!r} of {live.invocation.agent_id}"
                raise PayloadTooLarge(what, len(data), max_payload_bytes, "max_payload_bytes")
        if changes and agent.concurrent:
            names = ", ".join(record for record, _ in changes)
            raise HandlerError(f"agent {agent.name!r} is concurrent and only reads state, but changed {names}")
    except (HandlerError, PayloadTooLarge) as error:
        return Ending(_ended(live, now, "failed", error))
    return Ending(_ended(live, now, "succeeded", None, value), changes)


def failed(live: Live, now: float, error: BaseException) -> Ending:
    """Return the end of an invocation whose handler did not reach it by itself."""
    return Ending(_ended(live, now, "failed", error))


def cancelled(live: Live, now: float, reason: str) -> Ending:
    """Return the end of an invocation that was cancelled before its handler started."""
    return Ending(_ended(live, now, "cancelled", asyncio.CancelledError(reason)))


def refused(invocation: Invocation, now: float, error: BaseException, *, retry_after_s: float = 0.0) -> Result:
    """Return the result of an invocation that was never accepted; `deferred` when it may come again."""
    return Result(
        agent=invocation.agent,
        key=invocation.key,
        idempotency_key=invocation.idempotency_key,
        status="deferred" if retry_after_s else "failed",
        error_type=type(error).__name__ if type(error).__name__ != "BadInput" else InvalidInput.__name__,
        error_message=str(error)[:MAX_MESSAGE_CHARS],
        error_field=getattr(error, "field", ""),
        retry_after_s=retry_after_s,
        tenant=invocation.tenant,
        submitted_at_ms=invocation.submitted_at_ms,
        finished_at_ms=int(now * 1000),
        input_digest=input_digest(invocation.input),
        traceparent=invocation.traceparent,
    )


def _cancelled(live: Live) -> BaseException:
    return asyncio.CancelledError(live.reason or "the handler cancelled itself")


def _ended(live: Live, now: float, status: str, error: BaseException | None, value: bytes | None = None) -> Result:
    invocation, run = live.invocation, live.run
    known = type(error).__name__ if error is not None else ""
    return _make_result(
        agent=invocation.agent,
        key=invocation.key,
        idempotency_key=invocation.idempotency_key,
        status=status,
        value=value,
        error_type=InvalidInput.__name__ if known == "BadInput" else known,
        error_message=str(error)[:MAX_MESSAGE_CHARS] if error is not None else "",
        error_field=getattr(error, "field", ""),
        degraded=run.degraded if run else False,
        tenant=invocation.tenant,
        version=live.version,
        steps=run.steps if run else 0,
        input_tokens=run.input_tokens if run else 0,
        output_tokens=run.output_tokens if run else 0,
        cost=run.cost if run else 0.0,
        submitted_at_ms=invocation.submitted_at_ms,
        started_at_ms=live.started_at_ms,
        finished_at_ms=int(now * 1000),
        input_digest=live.digest(),
        traceparent=invocation.traceparent,
    )
