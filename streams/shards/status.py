"""What a shard tells about an invocation: why it waits, and for what."""

from __future__ import annotations

from typing import Any

import orjson

from streams.agents.run import Request
from streams.records import decode_as
from streams.records.invocations import Result
from streams.records.journal import Marker
from streams.shards.cold import WAITS_FOR_STORE, waits_for_store
from streams.shards.handlers import WORK
from streams.shards.live import QUEUED, RUNNING, Live


def describe_live(live: Live, position: int, now: float, *, paused: bool = False, trouble: str = "") -> dict[str, Any]:
    """Return where a live invocation stands, as plain JSON values.

    Args:
        position: Place in its mailbox, 1 for the next; 0 where it is in none.
        paused: An operator has paused its agent.
        trouble: Why the store cannot be read, if it cannot.
    """
    status: dict[str, Any] = {
        "invocation": live.id,
        "phase": "waiting" if waits_for_store(live) else live.phase,
        "version": live.version,
        "tenant": live.invocation.tenant,
        "incarnation": live.incarnation,
        "submitted_at_ms": live.invocation.submitted_at_ms,
        "started_at_ms": live.started_at_ms,
        "deadline_ms": live.invocation.deadline_ms,
        "completions": len(live.open) + len(live.closed),
        "age_s": round(now - live.invocation.submitted_at_ms / 1000, 3),
        "waits_for": _waits_for(live, position, now, paused, trouble),
    }
    if live.reason:
        status["reason"] = live.reason
    return status


def _waits_for(live: Live, position: int, now: float, paused: bool, trouble: str) -> list[dict[str, Any]]:
    if live.phase == QUEUED:
        if paused:
            return [{"kind": "operator", "name": f"agent {live.invocation.agent!r} is paused"}]
        if position:
            return [{"kind": "mailbox", "name": live.invocation.agent_id, "position": position}]
        return [{"kind": "not-before", "in_s": round(live.invocation.not_before_ms / 1000 - now, 3)}]
    if waits_for_store(live):
        return [{"kind": "store", "name": WAITS_FOR_STORE, **({"problem": trouble} if trouble else {})}]
    if live.phase != RUNNING:
        return [{"kind": "operator", "name": live.reason}]
    if live.run is None:
        return [{"kind": "event", "wake_in_s": round(live.wake_at_s - now, 3) if live.wake_at_s else None}]
    waits = [_describe(live, request, now) for request in live.run.pending.values() if not request.abandoned]
    if (timer := live.run.loop.next_timer()) is not None:
        waits.append({"kind": "timer", "step": timer[1], "in_s": round(timer[0] - now, 3)})
    return waits


def _describe(live: Live, request: Request, now: float) -> dict[str, Any]:
    wait: dict[str, Any] = {
        "kind": request.kind,
        "name": request.name,
        "step": request.step,
        "since_s": round(now - request.made_at_s, 3),
    }
    if request.kind in WORK:
        deadline_s = request.spec.deadline_s(request.made_at_s, live.invocation.deadline_ms / 1000)
        wait["falls_back_in_s"] = round(deadline_s - now, 3)
    if (notice := live.notices.get(request.step)) is not None:
        wait["notice"] = notice
    return wait


def describe_marker(marker: Marker) -> dict[str, Any]:
    """Return how a finished invocation ended, as plain JSON values."""
    result = decode_as(Result, marker.result)
    return {
        "invocation": result.id,
        "phase": "finished",
        "status": result.status,
        "tenant": result.tenant,
        "degraded": result.degraded,
        "value": orjson.loads(result.value) if result.value else None,
        "error": f"{result.error_type}: {result.error_message}" if result.error_type else None,
        "steps": result.steps,
        "started_at_ms": result.started_at_ms,
        "finished_at_ms": result.finished_at_ms,
        "waits_for": [],
    }
