"""A shard for tests: an engine, what it has written, and a clock. A restart keeps only what was written."""

from __future__ import annotations

from typing import Any

from streams import App
from streams.records import decode, decode_as
from streams.records.invocations import Invocation, Result
from streams.records.signals import Answer, Order, Signal
from streams.records.steps import ToolCall, ToolResult
from streams.shards.effects import Event, ShardLimits, Write
from streams.shards.engine import Engine
from streams.testing.journal import KeptJournal

START_S = 1_767_225_600.0


class Shard:
    """Steps an engine with one event at a time."""

    def __init__(self, app: App, **limits: Any) -> None:
        self.app = app
        self.limits = ShardLimits(**limits)
        self.journal = KeptJournal()
        self.writes: list[Write] = []
        self.now = START_S
        self.engine = self._engine()

    def restart(self, app: App | None = None) -> None:
        """Start anew from the journal, with another deploy if one is given."""
        self.app = app or self.app
        self.engine.close()
        self.engine = self._engine()

    def invoke(self, agent: Any, request: Any, key: str = "k1", **fields: Any) -> str:
        """Let an invocation arrive; returns its ID."""
        instance, data = agent.encode_input(request)
        self.arrive(self.invocation(agent.name, instance, data, key, **fields), "invocations")
        return f"{agent.name}/{instance}/{key}"

    def invocation(self, agent: str, key: str, data: bytes, idempotency_key: str = "k1", **fields: Any) -> Invocation:
        """Return an invocation that is submitted now."""
        now_ms = int(self.now * 1000)
        fields = {"submitted_at_ms": now_ms, "deadline_ms": now_ms + 3_600_000, **fields}
        return Invocation(agent, key, idempotency_key, data, **fields)

    def arrive(self, record: Any, kind: str = "inbox") -> None:
        """Let a record arrive."""
        self._step((Event(kind, record),))

    def wake(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        self.now += seconds
        self._step(())

    def signal(self, invocation: str, name: str, value: bytes = b"true", signal_id: str = "1") -> None:
        """Send a signal."""
        self.arrive(Signal(invocation, name, value, signal_id, 0), "signals")

    def order(self, action: str, target: str) -> Answer:
        """Give an operator's order and return the answer."""
        self.arrive(Order(action, target, "test", "tester", 0, "client", "r1"), "signals")
        answer: Answer = self.written(Answer)[-1]
        return answer

    def answer(self, call: ToolCall, value: bytes = b"1", status: str = "ok", **fields: Any) -> None:
        """Answer a tool call."""
        self.arrive(ToolResult(call.invocation, call.incarnation, call.step, call.tool, status, value, **fields))

    def arrive_later(self, call: ToolCall, value: bytes, into: list[Event]) -> None:
        """Put an answer where `arrive_all` takes it from."""
        into.append(
            Event("tool-results", ToolResult(call.invocation, call.incarnation, call.step, call.tool, "ok", value))
        )

    def arrive_all(self, events: list[Event]) -> None:
        """Let several records arrive in one transaction."""
        self._step(tuple(events))

    def deliver(self) -> None:
        """Deliver what was written to the inbox, until nothing more is."""
        while inbox := [write for write in self.writes if write.kind == "inbox"]:
            self.writes = [write for write in self.writes if write.kind != "inbox"]
            for write in inbox:
                self.arrive(decode(write.value or b""))

    @property
    def calls(self) -> list[ToolCall]:
        """Tool calls that were written."""
        return self.written(ToolCall)

    @property
    def results(self) -> list[Result]:
        """Results that were written."""
        return [decode_as(Result, write.value or b"") for write in self.writes if write.kind == "results"]

    def written(self, kind: type[Any]) -> list[Any]:
        """Return the records of a kind that were written to topics other than the journal."""
        found = [decode(w.value) for w in self.writes if w.value and w.kind not in ("journal", "results")]
        return [record for record in found if isinstance(record, kind)]

    def _engine(self) -> Engine:
        engine = Engine(self.app, partition=0, partition_of=lambda _: 0, limits=self.limits)
        self.journal.restore(engine, self.now)
        return engine

    def _step(self, events: tuple[Event, ...]) -> None:
        writes = self.engine.step(events, self.now)
        self.journal.keep(writes, self.engine)
        self.writes += writes
