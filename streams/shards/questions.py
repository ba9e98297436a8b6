"""What is asked of a shard from outside and answered on `answers`: orders, where an invocation stands, agent state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from streams.agents.shared import conflict_of
from streams.agents.state import StateShape
from streams.errors import InvalidInput, PayloadTooLarge, StreamsError
from streams.records import decode_as, encode
from streams.records.signals import Answer, Order, StateRead, StateWrite, StatusQuery
from streams.records.versions import missed
from streams.shards.orders import Orders
from streams.shards.shared import stored_json
from streams.shards.status import describe_live, describe_marker

if TYPE_CHECKING:
    from streams.shards.engine import Engine
    from streams.shards.live import Live


class Questions:
    """Answers clients and operators in the name of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._orders = Orders(engine)

    def on_order(self, order: Order) -> None:
        """Carry out an operator's order."""
        if order.action == "erase" and self._engine.cold.defer(order.target, order):
            return
        try:
            message, status = self._orders.obey(order), "ok"
        except StreamsError as error:
            status, message = "refused", str(error)
        if order.client:
            self._answer(order, status, message=message)

    def on_query(self, query: StatusQuery) -> None:
        """Tell where an invocation stands."""
        engine = self._engine
        live, marker = engine.live.get(query.invocation), engine.markers.get(query.invocation)
        if live is not None:
            self._answer(query, "ok", orjson.dumps(self._describe(live)))
        elif marker is not None:
            self._answer(query, "ok", orjson.dumps(describe_marker(marker)), result=marker.result)
        else:
            self._answer(query, "unknown", message=f"{query.invocation} is not known here")

    def _describe(self, live: Live) -> dict[str, Any]:
        paused = live.invocation.agent in self._engine.paused
        position, trouble = self._position(live), self._engine.cold.trouble
        return describe_live(live, position, self._engine.now, paused=paused, trouble=trouble)

    def _position(self, live: Live) -> int:
        instance = self._engine.instances.get(live.agent_id)
        return instance.mailbox.index(live) + 1 if instance and live in instance.mailbox else 0

    # -- agent state ---------------------------------------------------------------------------------------------------

    def on_state_read(self, read: StateRead) -> None:
        """Tell what an agent instance remembers: one field, a page of a log, or all fields."""
        if self._engine.cold.defer(read.agent_id, read):
            return
        try:
            self._answer(read, "ok", self._read(read))
        except StreamsError as error:
            self._answer(read, "refused", message=str(error))

    def _read(self, read: StateRead) -> bytes:
        shape = self._shape(read.agent_id)
        view = self._engine.state.view(read.agent_id)
        if read.record and shape.is_log(read.record):
            length = view.lengths.get(read.record, 0)
            stop = length if read.before < 0 else min(read.before, length)
            most = self._engine.limits.max_payload_bytes
            entries: list[bytes] = []
            size = 0
            for position in range(stop - 1, max(0, stop - max(1, read.size)) - 1, -1):
                entry = view.entry(read.record, position)
                size += len(entry) + 1
                if entries and size > most:
                    break
                entries.append(entry)
            page = b",".join(reversed(entries))
            return b'{"length":%d,"first":%d,"entries":[%b]}' % (length, stop - len(entries), page)
        names = [shape.check_field(read.record)] if read.record else shape.fields
        records = self._engine.state.of(read.agent_id)
        parts = []
        for name in names:
            latest = records.get(name)
            version = latest.vector if latest is not None else {}
            value = view.records.get(name)
            shown = stored_json(shape.default(name) if value is None else value, version, exists=value is not None)
            parts.append(b"%b:%b" % (orjson.dumps(name), shown))
        return b"{%b}" % b",".join(parts)

    def on_state_write(self, write: StateWrite) -> None:
        """Write a field, if its version is still what the client has seen and nobody is at work on the instance."""
        engine = self._engine
        request = f"{write.client}\x00{write.request_id}"
        if (answer := engine.applied.answer(request)) is not None:
            engine.counters.repeated += 1
            engine.outbox.answer(decode_as(Answer, answer))
            return
        try:
            shape = self._shape(write.agent_id)
            value = shape.check_value(write.record, write.value)
            if len(value) > engine.limits.max_payload_bytes:
                what = f"state record {write.record!r} of {write.agent_id}"
                raise PayloadTooLarge(what, len(value), engine.limits.max_payload_bytes, "max_payload_bytes")
        except StreamsError as error:
            self._answer(write, "refused", message=str(error))
            return
        instance = engine.instances.get(write.agent_id)
        if instance is not None and instance.active is not None:
            # What the handler changes becomes visible at its end, and would silently be written over this.
            self._answer(write, "busy", message=instance.active.id)
            return
        if engine.cold.defer(write.agent_id, write):
            return
        latest = engine.state.of(write.agent_id).get(write.record)
        current = dict(latest.vector) if latest is not None else {}
        if write.expected != current:
            gone = missed(write.expected, current)
            found = conflict_of(write.expected, current, gone.writers, gone.others)
            self._answer(write, "conflict", found)
            return
        delta = engine.writes.write(write.agent_id, write.record, value, writer=write.writer)
        done = Answer(write.client, write.request_id, "ok", stored_json(None, delta.vector, exists=True))
        engine.applied.note(request, encode(done))
        engine.outbox.answer(done)

    def _shape(self, agent_id: str) -> StateShape:
        name = agent_id.partition("/")[0]
        shape = self._engine.app.latest(name).state
        if shape is None:
            raise InvalidInput(f"agent {name!r} has no state; declare it with state=Model")
        return shape

    def _answer(
        self,
        question: Order | StatusQuery | StateRead | StateWrite,
        status: str,
        value: bytes = b"null",
        *,
        message: str = "",
        result: bytes | None = None,
    ) -> None:
        self._engine.outbox.answer(Answer(question.client, question.request_id, status, value, message, result))
