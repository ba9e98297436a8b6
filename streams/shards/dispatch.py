"""What becomes of a step that a handler asks for: a record to send, or an outcome that is known already.

Outcomes that are decided here (breaker open, budget, deadlock, fallback) are returned as completions, never applied
inline: the engine journals them and applies them when the handler is at rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from streams.agents.agent import Agent
from streams.agents.outcome import Failure
from streams.agents.run import Request
from streams.breakers.refusal import Refusal
from streams.errors import AgentDeadlock, BudgetExceeded, HandlerError, PayloadTooLarge
from streams.llm.model import ChatSpec
from streams.records import decode, decode_as, encode, encoder_of, headers
from streams.records.compiled import compile_maker
from streams.records.ids import child_key, digest
from streams.records.invocations import Invocation
from streams.records.journal import Completion, KeptStep
from streams.records.signals import Signal
from streams.records.steps import LlmRequest, LlmResult, ToolCall, ToolCancel, ToolResult
from streams.shards.effects import ShardLimits, Write
from streams.shards.live import Live
from streams.shards.spending import over_budget
from streams.tools.tool import Tool

Admission = Callable[[str, float], "str | Refusal"]
"""Asks the replica of the breakers about a call now: the probe's stamp (empty for an ordinary call), or a refusal."""


_make_completion = compile_maker(Completion)
_encode_call, _encode_llm_request = encoder_of(ToolCall), encoder_of(LlmRequest)


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Decides on requests for one shard.

    Attributes:
        partition_of: Partition of an agent ID.
        admit: The shard's replica of the breakers.
        shared: Decides on steps that concern shared records.
    """

    limits: ShardLimits
    partition: int
    partition_of: Callable[[str], int]
    admit: Admission
    shared: Callable[[Live, Request], Completion | Write | None]

    def decide(self, live: Live, agent: Agent[Any, Any], request: Request, now: float) -> Completion | Write | None:
        """Return the outcome, the record to send, or None for a step that only waits (a signal, a kept call)."""
        if len(request.payload) > self.limits.max_payload_bytes:
            what = f"what {live.id} sends to {request.kind} {request.name!r}"
            error = PayloadTooLarge(what, len(request.payload), self.limits.max_payload_bytes, "max_payload_bytes")
            return raised(request, HandlerError(str(error)), now)
        match request.kind:
            case "tool":
                return self._tool(live, request, now)
            case "llm":
                return self._llm(live, agent, request, now)
            case "child" | "start-child":
                return self._child(live, request, now)
            case "shared":
                return self.shared(live, request)
            case "signal":
                return take_signal(live, request, now)
        return raised(request, HandlerError(f"{request.kind!r} is not a kind of step"), now)

    def _tool(self, live: Live, request: Request, now: float) -> Completion | Write | None:
        tool: Tool[..., Any] = request.spec
        once = tool.policy.effect == "at-most-once"
        if once:
            kept = match_kept(live, request)
            if kept is not None:
                return self._from_kept(kept, request, now)
        stamp = self.admit(tool.dependency, now)
        if isinstance(stamp, Refusal):
            return fall_back(request, Failure(tool.dependency, "open", stamp.reason), now)
        if once:
            live.keep(KeptStep(live.incarnation, request.step, request.name, digest(request.payload)))
        call = _encode_call(
            invocation=live.id,
            incarnation=live.incarnation,
            step=request.step,
            tool=request.name,
            arguments=request.payload,
            effect=tool.policy.effect,
            issued_at_ms=int(now * 1000),
            deadline_ms=int(tool.deadline_s(request.made_at_s, live.invocation.deadline_ms / 1000) * 1000),
            tenant=live.invocation.tenant,
            priority=live.invocation.priority,
            probe=stamp,
            traceparent=live.invocation.traceparent,
        )
        return self._to_agent_topic("tool-calls", live, call, "tool-call", tool.lane)

    def cancel(self, live: Live, request: Request) -> Write:
        """Return the record that tells workers that nobody waits for a tool call any more."""
        tool: Tool[..., Any] = request.spec
        cancel = ToolCancel(live.id, live.incarnation, request.step, request.name)
        return self._to_agent_topic("tool-calls", live, encode(cancel), "tool-cancel", tool.lane)

    def _from_kept(self, kept: KeptStep, request: Request, now: float) -> Completion | None:
        if kept.outcome is None:
            return None
        earlier = decode(kept.outcome)
        if isinstance(earlier, Completion):
            return replace(earlier, step=request.step, at_s=now)
        return answered(request, earlier, now, 0)

    def _llm(self, live: Live, agent: Agent[Any, Any], request: Request, now: float) -> Completion | Write:
        spec: ChatSpec[Any] = request.spec
        run = live.run
        if run is not None and (problem := over_budget(run, agent.budget, request, self.limits.prices)) is not None:
            return raised(request, BudgetExceeded(problem), now)
        asked = _encode_llm_request(
            invocation=live.id,
            incarnation=live.incarnation,
            step=request.step,
            model=spec.model.pool,
            request=request.payload,
            issued_at_ms=int(now * 1000),
            deadline_ms=int(spec.deadline_s(request.made_at_s, live.invocation.deadline_ms / 1000) * 1000),
            input_tokens=spec.input_tokens(request.payload),
            max_output_tokens=spec.max_output_tokens,
            tenant=live.invocation.tenant,
            priority=live.invocation.priority,
            stream=spec.stream,
            traceparent=live.invocation.traceparent,
        )
        return self._to_agent_topic("llm-requests", live, asked, "llm-request", spec.lane)

    def _child(self, live: Live, request: Request, now: float) -> Completion | Write:
        parent, awaits = live.invocation, request.kind == "child"
        target: Agent[Any, Any] = request.spec.agent
        chain = (*parent.chain, parent.agent_id) if awaits and not target.concurrent else ()
        if awaits and request.name in chain:
            path = " -> ".join((*chain, request.name))
            return raised(request, AgentDeadlock(f"{request.name} waits for this call already: {path}"), now)
        if parent.depth + 1 > self.limits.max_depth:
            bound = f"depth {parent.depth + 1} of child invocations exceeds {self.limits.max_depth} (max_depth)"
            return raised(request, HandlerError(f"{bound}; start the work from the outer agent"), now)
        if live.children >= self.limits.max_children:
            bound = f"{live.children} children at a time exceed {self.limits.max_children} (max_children)"
            return raised(request, HandlerError(f"{bound}; wait for some before calling more"), now)
        name, _, key = request.name.partition("/")
        child = Invocation(
            agent=name,
            key=key,
            idempotency_key=child_key(live.id, live.incarnation, request.step),
            input=request.payload,
            submitted_at_ms=int(now * 1000),
            deadline_ms=parent.deadline_ms,
            tenant=parent.tenant,
            priority=parent.priority,
            parent=live.id,
            parent_incarnation=live.incarnation,
            parent_step=request.step,
            parent_awaits=awaits,
            chain=(*parent.chain, parent.agent_id) if awaits else (),
            depth=parent.depth + 1,
            traceparent=parent.traceparent,
        )
        live.children += awaits
        return Write(
            "inbox",
            child.agent_id.encode(),
            encode(child),
            self.partition_of(child.agent_id),
            headers.internal("invocation", child.traceparent),
        )

    def _to_agent_topic(self, kind: str, live: Live, record: bytes, name: str, lane: str) -> Write:
        head = headers.internal(name, live.invocation.traceparent)
        return Write(kind, live.agent_id.encode(), record, self.partition, head, lane)


def take_signal(live: Live, request: Request, now: float) -> Completion | None:
    """Return the oldest signal of the name that is waiting, None where none has come."""
    for index, data in enumerate(live.signals):
        signal = decode_as(Signal, data)
        if signal.name == request.name:
            del live.signals[index]
            return signal_completion(signal, request, now)
    return None


def signal_completion(signal: Signal, request: Request, now: float) -> Completion:
    """Return the completion that delivers a signal; its ID travels in `cause`."""
    return replace(completed(request, now, value=signal.value), cause=signal.signal_id)


def match_kept(live: Live, request: Request) -> KeptStep | None:
    """Return the earlier incarnation's call that this request repeats, each at most once.

    The current incarnation's step is noted as its alias, so that an answer still to come reaches it.
    """
    wanted = digest(request.payload)
    for index, kept in enumerate(live.kept):
        if (
            kept.incarnation < live.incarnation
            and index not in live.aliases
            and kept.tool == request.name
            and kept.arguments == wanted
        ):
            live.aliases[index] = request.step
            return kept
    return None


def answered(request: Request, result: ToolResult | LlmResult, now: float, asked: int) -> Completion:
    """Return the completion that a result makes of *request*; the fallback's where the dependency has failed.

    Args:
        asked: The run's rolling hash; set at once, because a copy would cost as much as all else that is done here.
    """
    if result.status == "failed":
        spec = request.spec
        failure = Failure(spec.dependency, result.cause, result.error_message, result.attempts, result.elapsed_s)
        done = fall_back(request, failure, now)
        if isinstance(result, LlmResult) and (result.input_tokens or result.output_tokens):
            used = {"input_tokens": result.input_tokens, "output_tokens": result.output_tokens, "cost": result.cost}
            done = replace(done, **used)  # type: ignore[arg-type]
        return done
    llm = result if isinstance(result, LlmResult) else None
    return _make_completion(
        step=request.step,
        kind=request.kind,
        name=request.name,
        status=result.status,
        at_s=now,
        asked=asked,
        value=result.value,
        error_type=result.error_type,
        error_message=result.error_message,
        cause=result.cause,
        attempts=result.attempts,
        elapsed_s=result.elapsed_s,
        input_tokens=llm.input_tokens if llm else 0,
        output_tokens=llm.output_tokens if llm else 0,
        cost=llm.cost if llm else 0.0,
    )


def completed(request: Request, now: float, *, value: bytes | None = None, status: str = "ok") -> Completion:
    """Return a completion of *request* that the engine decided."""
    return Completion(
        step=request.step, kind=request.kind, name=request.name, status=status, at_s=now, asked=0, value=value
    )


def raised(request: Request, error: Exception, now: float) -> Completion:
    """Return a completion that raises *error* at the handler's step."""
    return replace(completed(request, now, status="raised"), error_type=type(error).__name__, error_message=str(error))


def fall_back(request: Request, failure: Failure, now: float) -> Completion:
    """Return the completion that the declared fallback makes of a failure."""
    try:
        value = request.spec.fall_back(failure, request.payload)
    except Exception as error:
        problem = HandlerError(f"the fallback of {failure.dependency} raised {type(error).__name__}: {error}")
        return raised(request, problem, now)
    done = completed(request, now, value=value)
    return replace(
        done, degraded=True, cause=failure.cause, attempts=failure.attempts, elapsed_s=failure.elapsed_s,
        error_message=failure.message,
    )  # fmt: skip


def started_child(request: Request, invocation_id: str, now: float) -> Completion:
    """Return the completion of a child that is only started: its ID."""
    return completed(request, now, value=orjson.dumps(invocation_id))
