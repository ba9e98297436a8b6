"""Operators' orders: resume, restart or fail an invocation, pause an agent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streams.errors import HandlerError, InvalidInput, UnknownName
from streams.records import decode, encode
from streams.records.signals import Cancel, Order, Signal
from streams.records.steps import ToolResult
from streams.shards.ending import failed
from streams.shards.erase import erase
from streams.shards.live import PARKED, QUEUED, Live

if TYPE_CHECKING:
    from streams.shards.engine import Engine


class Orders:
    """Carries out orders on the live invocations of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def obey(self, order: Order) -> str:
        """Carry out an order and return what became of its target.

        Raises:
            UnknownName: Its target is not live here.
            InvalidInput: It does not apply, or is no order.
        """
        engine = self._engine
        if order.action in ("pause", "unpause"):
            return self._pause(order)
        if order.action == "erase":
            return erase(engine, order.target, order.ordered_by)
        live = engine.live.get(order.target)
        if live is None:
            raise UnknownName(f"{order.target} is not live in shard {engine.partition}")
        if order.action == "fail":
            error = HandlerError(f"failed by {order.ordered_by}: {order.reason}")
            engine.end(live, failed(live, engine.now, error))
            return "failed"
        if order.action == "resume":
            if live.phase != PARKED:
                raise InvalidInput(f"{live.id} is {live.phase}, not parked; there is nothing to resume")
            engine.go_on(live)
            return live.phase
        if order.action == "restart":
            self._restart(live)
            return "restarted"
        raise InvalidInput(f"{order.action!r} is not one of resume, restart, fail, pause, unpause, erase")

    def _restart(self, live: Live) -> None:
        engine, handlers = self._engine, self._engine.handlers
        if live.phase == QUEUED:
            raise InvalidInput(f"{live.id} has not started; there is nothing to restart")
        latest = engine.app.latest(live.invocation.agent)
        signals = [
            Signal(live.id, c.name, c.value or b"null", c.cause, int(c.at_s * 1000))
            for c in live.completions()
            if c.kind == "signal"
        ]
        outcomes = {c.step: c for c in live.completions() if c.kind == "tool"}
        live.kept = [
            replace(kept, outcome=encode(outcomes[kept.step]))
            if kept.incarnation == live.incarnation and kept.step in outcomes
            else kept
            for kept in live.kept
        ]
        held = [decode(data) for data in live.held]
        for record in held:
            if isinstance(record, ToolResult):
                engine.outcomes.kept_step(live, record)
        for key in live.chunk_keys():
            if not key.endswith(b"\x00-1"):
                engine.outbox.journal(key, None)
        handlers.call_off(live, effects=False)
        if live.run is not None:
            live.run.close()
            live.run = None
        live.forget_run()
        # What was told to the earlier incarnation is still true: nobody is going to say it again.
        live.signals = [*map(encode, signals), *live.signals]
        live.seen |= {signal.signal_id for signal in signals}
        live.version = latest.version
        engine.touch(live)
        handlers.start(live)
        for record in held:
            if isinstance(record, Signal | Cancel):
                engine.handle(record)

    def _pause(self, order: Order) -> str:
        engine = self._engine
        if order.action == "pause":
            engine.paused.add(order.target)
            return "paused"
        engine.paused.discard(order.target)
        for owner, instance in list(engine.instances.items()):
            if owner.startswith(f"{order.target}/"):
                engine.next_of(instance, owner)
        return "unpaused"
