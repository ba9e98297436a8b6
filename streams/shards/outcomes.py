"""Outcomes of steps that were sent to tools, models and children: each reaches the step that waits for it, once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from streams.agents.agent import Agent
from streams.agents.run import Request
from streams.records import decode_as, encode
from streams.records.invocations import ChildOutcome, Result
from streams.records.signals import SharedOutcome
from streams.records.steps import LlmResult, ToolNotice, ToolResult
from streams.shards.dispatch import answered, completed
from streams.shards.live import PARKED, Live

if TYPE_CHECKING:
    from streams.shards.engine import Engine


class Awaiting(NamedTuple):
    """A step that waits for an outcome that has come, its handler brought to where it waits."""

    live: Live
    agent: Agent[Any, Any]
    request: Request


class Outcomes:
    """Gives outcomes to the live invocations of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def on_step(self, result: ToolResult | LlmResult) -> None:
        """Give a tool's or model's result to its step; what nobody waits for any more is ignored."""
        engine = self._engine
        live = engine.live.get(result.invocation)
        if live is None:
            engine.counters.ignored += 1
            return
        agent = None if live.phase == PARKED else engine.handlers.activate(live)
        if agent is None:
            engine.hold(live, result)
            return
        kind = "tool" if isinstance(result, ToolResult) else "llm"
        step = result.step if result.incarnation == live.incarnation else self.kept_step(live, result)
        run = live.run
        assert run is not None
        request = run.waits_for(step) if step is not None else None
        if request is None or request.kind != kind:
            engine.counters.ignored += 1
            if live.kept and result.incarnation == live.incarnation:
                self.kept_step(live, result)
            return
        engine.handlers.give(live, answered(request, result, engine.now, run.asked))
        engine.handlers.drive(live, agent)

    def on_notice(self, notice: ToolNotice) -> None:
        """Keep a worker's word on why a call is not answered yet, for whoever asks; it is lost with the process."""
        live = self._engine.live.get(notice.invocation)
        if live is None or notice.incarnation != live.incarnation:
            self._engine.counters.ignored += 1
            return
        live.notices[notice.step] = notice.reason

    def kept_step(self, live: Live, result: ToolResult | LlmResult) -> int | None:
        """Return the step of a later incarnation that waits for a kept call, after noting its result."""
        for index, kept in enumerate(live.kept):
            if isinstance(result, ToolResult) and (kept.incarnation, kept.step) == (result.incarnation, result.step):
                if kept.outcome is None:
                    live.learn(index, encode(result))
                    self._engine.touch(live)
                return live.aliases.get(index)
        return None

    def awaiting(self, outcome: ChildOutcome | SharedOutcome, invocation: str, kind: str) -> Awaiting | None:
        """Return who waits for another shard's outcome; None where nobody does, or it is held for a parked one."""
        engine = self._engine
        live = engine.live.get(invocation)
        if live is None or outcome.incarnation != live.incarnation:
            engine.counters.ignored += 1
            return None
        agent = None if live.phase == PARKED else engine.handlers.activate(live)
        if agent is None:
            engine.hold(live, outcome)
            return None
        assert live.run is not None
        request = live.run.waits_for(outcome.step)
        if request is None or request.kind != kind:
            engine.counters.ignored += 1
            return None
        return Awaiting(live, agent, request)

    def on_child(self, outcome: ChildOutcome) -> None:
        """Give a child's result to the step of its parent."""
        engine = self._engine
        if (found := self.awaiting(outcome, outcome.parent, "child")) is None:
            return
        live, agent, request = found
        live.children -= 1
        result = decode_as(Result, outcome.result)
        good = result.status == "succeeded"
        completion = replace(
            completed(request, engine.now, value=result.value, status="ok" if good else "raised"),
            error_type=result.error_type or result.status,
            error_message=result.error_message,
            cause="" if good else outcome.child,
            degraded=result.degraded and good,
            input_tokens=result.input_tokens,
            output_tokens=result.output_tokens,
            cost=result.cost,
        )
        engine.handlers.give(live, completion)
        engine.handlers.drive(live, agent)
