"""Operators' orders: resume, restart or fail an invocation, pause an agent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streams.errors import HandlerError, InvalidInput, UnknownName
from streams.records import decode, encode
from streams.records.signals import Order
from streams.records.steps import ToolResult
from streams.shards.ending import failed
from streams.shards.live import PARKED, QUEUED, RUNNING, Live

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
            self._unpark(live)
            return live.phase
        if order.action == "restart":
            self._restart(live)
            return "restarted"
        raise InvalidInput(f"{order.action!r} is not one of resume, restart, fail, pause, unpause")

    def _unpark(self, live: Live) -> None:
        engine, handlers = self._engine, self._engine.handlers
        live.phase, live.reason = RUNNING, ""
        engine.touch(live)
        if not live.open and not live.closed:
            handlers.start(live)
            return
        agent = handlers.activate(live)
        if agent is None:
            return
        held, live.held = live.held, []
        if live.run is not None:
            handlers.rest(live, live.run)
        for data in held:
            record = decode(data)
            engine.handle(record)
        if live.run is not None:
            handlers.drive(live, agent)

    def _restart(self, live: Live) -> None:
        engine, handlers = self._engine, self._engine.handlers
        if live.phase == QUEUED:
            raise InvalidInput(f"{live.id} has not started; there is nothing to restart")
        outcomes = {c.step: c for c in live.completions() if c.kind == "tool"}
        live.kept = [
            replace(kept, completion=encode(outcomes[kept.step]))
            if kept.incarnation == live.incarnation and kept.step in outcomes
            else kept
            for kept in live.kept
        ]
        for data in live.held:
            record = decode(data)
            if isinstance(record, ToolResult):
                engine.kept_step(live, "tool", record)
        for key in live.chunk_keys():
            if not key.endswith(b"\x00-1"):
                engine.outbox.journal(key, None)
        if live.run is not None:
            live.run.close()
            live.run = None
        live.incarnation += 1
        live.closed, live.open, live.open_bytes, live.chunks = [], [], 0, 0
        live.held, live.asked, live.reason, live.patches = [], 0, "", frozenset()
        live.snapshot, live.snapshot_written, live.cancelled, live.children = None, False, False, 0
        live.aliases.clear()
        live.deadlines.clear()
        live.version = engine.app.latest(live.invocation.agent).version
        engine.touch(live)
        handlers.start(live)

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
