"""Signals and cancels: delivered, kept until somebody waits for them, or until their invocation comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.agents.run import CANCEL
from streams.records import encode
from streams.records.journal import Completion, Early
from streams.records.signals import Cancel, Signal
from streams.shards.cold import waits_for_store
from streams.shards.dispatch import signal_completion
from streams.shards.ending import cancelled
from streams.shards.live import PARKED, QUEUED, RUNNING, Live, early_key

if TYPE_CHECKING:
    from streams.shards.engine import Engine


class Mail:
    """What clients send to the invocations of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def on_signal(self, signal: Signal) -> None:
        """Deliver a signal, or keep it until somebody waits for it."""
        engine = self._engine
        live = engine.live.get(signal.invocation)
        if live is None:
            self._keep_early(signal.invocation, signal)
            return
        if live.phase != RUNNING:
            if live.phase == PARKED:
                engine.hold(live, signal)
            else:
                self._buffer(live, signal)
            return
        if (agent := engine.handlers.activate(live)) is None:
            engine.hold(live, signal)
            return
        if signal.signal_id in live.seen:
            engine.counters.ignored += 1
            return
        run = live.run
        assert run is not None
        waiting = (
            r for r in list(run.pending.values()) if r.kind == "signal" and r.name == signal.name and not r.abandoned
        )
        if (request := next(waiting, None)) is None:
            self._buffer(live, signal)
            return
        live.seen.add(signal.signal_id)
        engine.handlers.give(live, signal_completion(signal, request, engine.now))
        engine.handlers.drive(live, agent)

    def on_cancel(self, cancel: Cancel) -> None:
        """Cancel an invocation; its handler may clean up."""
        engine = self._engine
        live = engine.live.get(cancel.invocation)
        if live is None:
            self._keep_early(cancel.invocation, cancel)
            return
        if live.phase == QUEUED or (waits_for_store(live) and not live.open and not live.closed):
            engine.end(live, cancelled(live, engine.now, cancel.reason))
            return
        agent = None if live.phase == PARKED else engine.handlers.activate(live)
        if agent is None:
            engine.hold(live, cancel)
            return
        if live.cancelled:
            return
        live.cancelled, live.reason = True, cancel.reason
        engine.handlers.give(
            live,
            Completion(0, CANCEL, cancel.requested_by, "raised", engine.now, 0, error_message=cancel.reason),
        )
        engine.handlers.drive(live, agent)

    def take_early(self, invocation: str) -> tuple[bytes, ...]:
        """Return, and forget, what has come for an invocation before it."""
        engine = self._engine
        early = engine.early.pop(invocation, None)
        if early is None:
            return ()
        engine.outbox.journal(early_key(invocation), None)
        return early.records

    def _buffer(self, live: Live, signal: Signal) -> None:
        """Keep a signal that nobody waits for yet, once; beyond the bounds it is dropped."""
        engine = self._engine
        data = encode(signal)
        room = engine.limits.max_payload_bytes - sum(map(len, live.signals))
        if signal.signal_id in live.seen or len(live.signals) >= engine.limits.max_signals or len(data) > room:
            engine.counters.ignored += 1
            return
        live.seen.add(signal.signal_id)
        live.signals.append(data)
        engine.touch(live)

    def _keep_early(self, invocation: str, record: Signal | Cancel) -> None:
        engine = self._engine
        known = engine.early.get(invocation)
        limits = engine.limits
        full = len(engine.early) >= limits.max_early or (known and len(known.records) >= limits.max_signals)
        if invocation in engine.markers or (known is None and full):
            engine.counters.ignored += 1
            return
        first = known.first_at_ms if known else int(engine.now * 1000)
        engine.early[invocation] = early = Early((*(known.records if known else ()), encode(record)), first)
        engine.outbox.journal(early_key(invocation), encode(early))
