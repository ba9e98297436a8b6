"""The tool calls of one partition while this process owns it: each answered once, what nobody waits for stopped."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from streams.broker.port import LogRecord, Message
from streams.errors import CodecError
from streams.records import decode, decode_as, encode, headers
from streams.records.ids import StepId
from streams.records.steps import ToolCall, ToolCancel, ToolResult
from streams.records.topics import Catalogue
from streams.tools.claims import Claims
from streams.tools.execution import Execution
from streams.tools.shares import Shares
from streams.tools.ticket import Ticket

MOST_UNWANTED = 10_000
"""Cancelled calls that are remembered although they are not open here, such as those in the overflow lane."""


class ToolSession:
    """See `streams.broker.queue_plan.SharingSession`."""

    def __init__(
        self, execution: Execution, shares: Shares, catalogue: Catalogue, partition: int, claims: Claims
    ) -> None:
        self._execution = execution
        self._shares = shares
        self._claims = claims
        self._answered: set[StepId] = set()
        self._open: dict[StepId, Ticket] = {}
        self._unwanted: OrderedDict[StepId, None] = OrderedDict()
        self._decoded: dict[tuple[str, int], ToolCall | ToolCancel] = {}
        self._letting_go = False
        self._write: Callable[..., Message] = partial(
            Message, catalogue.name("tool-results"), partition=partition, headers=headers.internal("tool-result")
        )

    # -- the look-ahead ------------------------------------------------------------------------------------------------

    def lot(self, record: LogRecord) -> str:
        """Return the name of the tool; empty where `handle` makes no call: a cancel, an answered call, what is not one.

        An answered call may be read again long after, because an earlier one is still open. It needs no place, and
        nobody remembers whether it was moved: the overflow lane has gone on.
        """
        try:
            decoded = _decode(record)
        except CodecError:
            return ""
        self._decoded[record.topic, record.offset] = decoded
        if isinstance(decoded, ToolCancel) or decoded.id in self._answered:
            return ""
        return self._shares.lot(decoded.tool)

    def share(self, lot: str) -> int:
        """Return how many calls of a tool may be open."""
        return self._shares.of(lot)

    def alone(self, topic: str) -> str:
        """Return the only tool of a topic, empty where it has several."""
        return self._shares.alone(topic)

    async def move(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Write calls to the overflow lane."""
        offsets = await self._claims.move(messages)
        self._decoded.clear()  # calls that began have taken theirs out; those that moved are read anew in the lane
        return offsets

    # -- calls ---------------------------------------------------------------------------------------------------------

    def answered(self, result: LogRecord) -> None:
        """Note a result that an earlier owner has written."""
        try:
            self._answered.add(decode_as(ToolResult, result.value or b"").id)
        except CodecError:
            pass  # not a result: the shard sets it aside, and the call is answered again

    async def handle(self, record: LogRecord) -> Message | None:
        """Make one call, unless it was answered already; or stop one."""
        decoded = self._decoded.pop((record.topic, record.offset), None) or _decode(record)
        if isinstance(decoded, ToolCancel):
            self._cancel(decoded)
            return None
        if decoded.id in self._answered or decoded.id in self._open:
            return None
        return self._write(key=record.key, value=encode(await self._answer(decoded)))

    async def _answer(self, call: ToolCall) -> ToolResult:
        task = asyncio.current_task()
        assert task is not None
        if self._letting_go:
            raise asyncio.CancelledError
        if call.id in self._unwanted:
            del self._unwanted[call.id]
            return self._execution.cancelled(call)
        ticket = self._open[call.id] = Ticket(task)
        try:
            return await self._execution.run(call, ticket, self._claims)
        except asyncio.CancelledError:
            if ticket.wanted or ticket.kept_back:
                raise
            task.uncancel()
            return self._execution.cancelled(call)
        finally:
            del self._open[call.id]

    def _cancel(self, cancel: ToolCancel) -> None:
        ticket = self._open.get(cancel.id)
        if ticket is not None:
            ticket.cancel()
            return
        self._unwanted[cancel.id] = None
        if len(self._unwanted) > MOST_UNWANTED:
            self._unwanted.popitem(last=False)

    def let_go(self) -> None:
        """Begin nothing more: the next owner of the partition begins it."""
        self._letting_go = True
        for ticket in self._open.values():
            ticket.keep_back()


def _decode(record: LogRecord) -> ToolCall | ToolCancel:
    decoded = decode(record.value or b"")
    if not isinstance(decoded, ToolCall | ToolCancel):
        raise CodecError(f"a {type(decoded).__name__} on a topic of tool calls")
    return decoded
