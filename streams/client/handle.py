"""One invocation, seen from outside: its result, its status, signals and cancel."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import orjson
from pydantic import TypeAdapter

from streams.client.inbox import Slot
from streams.client.outcome import InvocationResult
from streams.errors import BrokerUnavailable, ResultTimeout, UnknownInvocation
from streams.records import decode_as
from streams.records.ids import check_part
from streams.records.invocations import Result
from streams.records.signals import Answer, Cancel, Signal, StatusQuery
from streams.records.steps import TokenChunk

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_RECHECK_S = 5.0
LAST_RECHECK_S = 60.0
"""Seconds between questions to the shard while a result is waited for: a client that was away may have missed it. They
grow, so that those who wait for an overloaded shard do not add to its load."""

LAST_PIECES_S = 0.2
"""Seconds to wait for pieces of text that are still on their way when the result is there."""


class Handle(Generic[T]):
    """An invocation that was submitted here or elsewhere.

    Attributes:
        invocation_id: `name/key/idempotency-key`.
    """

    def __init__(
        self,
        invocation_id: str,
        slot: Slot,
        *,
        ask: Callable[[StatusQuery], Awaitable[Answer]],
        tell: Callable[[Any, str], Awaitable[None]],
        client: str,
        adapter: TypeAdapter[Any] | None,
        known: bool,
        caught_up: Callable[[], Awaitable[bool]] | None = None,
        pieces: Callable[[], AsyncGenerator[TokenChunk]] | None = None,
    ) -> None:
        self.invocation_id = invocation_id
        self._slot = slot
        self._ask = ask
        self._tell = tell
        self._client = client
        self._adapter = adapter
        self._known = known
        self._caught_up = caught_up
        self._pieces = pieces

    async def result(self, timeout: float | None = None) -> InvocationResult[T]:
        """Wait for the result.

        Args:
            timeout: Seconds; None waits until the invocation's deadline ends it.

        Raises:
            ResultTimeout: It did not come in time; the invocation goes on.
            UnknownInvocation: No shard knows the ID, for a handle made from an ID.
        """
        try:
            async with asyncio.timeout(timeout):
                return InvocationResult(await self._wait(), self._adapter)
        except TimeoutError:
            raise ResultTimeout(
                f"{self.invocation_id} has no result after {timeout:g} s; it goes on, ask again with client.handle(id)"
            ) from None

    async def tokens(self) -> AsyncGenerator[TokenChunk]:
        """Yield what models write for this invocation with `chat(stream=True)`, piece by piece, until it has ended.

        Best effort, from now on: pieces have `step`, `index` and `text`; a repeated call starts over at index 0,
        and with it the text. The result has the whole.

        Raises:
            UnknownInvocation: No shard knows the ID, for a handle made from an ID.
        """
        if self._pieces is None:
            return
        pieces, over = self._pieces(), asyncio.ensure_future(self._wait())
        coming: asyncio.Future[TokenChunk] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(pieces))
                await asyncio.wait((coming, over), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    over.result()
                    await asyncio.wait((coming,), timeout=LAST_PIECES_S)
                if not coming.done():
                    return
                yield coming.result()
        finally:
            for task in (over, coming):
                if task is not None and task.cancel():
                    await asyncio.wait((task,))
            await pieces.aclose()

    async def _wait(self) -> Result:
        future = self._slot.future
        ask, pause = not self._known, FIRST_RECHECK_S
        while not future.done():
            if ask:
                await self._look(future)
            await asyncio.wait((future,), timeout=pause)
            ask, pause = True, min(2 * pause, LAST_RECHECK_S)
        return future.result()

    async def _look(self, future: asyncio.Future[Result]) -> None:
        """Ask the shard for a result that may have come and gone; no longer once it comes after all."""
        asking = asyncio.ensure_future(self._ask_surely())
        try:
            await asyncio.wait((asking, future), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return
            answer = asking.result()
        except (ResultTimeout, BrokerUnavailable) as error:
            # The shard is moving or the log is away; the result comes when they are back.
            log.warning("still waiting for %s: %s", self.invocation_id, error)
            return
        finally:
            asking.cancel()
            await asyncio.wait((asking,))
        if answer is None:
            return  # it may be among what the shard has not read yet
        if answer.result is not None:
            self._slot.put(decode_as(Result, answer.result))
        elif answer.status == "unknown" and not self._known and not future.done():
            raise UnknownInvocation(
                f"no shard knows {self.invocation_id}; it was never submitted, or finished before the deduplication "
                "window"
            )

    async def _ask_surely(self) -> Answer | None:
        """Ask where the invocation stands; None when its shard is too far behind to say that it does not know it."""
        answer = await self._ask(self._query())
        if answer.status == "unknown" and self._caught_up is not None:
            # Shards answer questions before they read invocations: only one that has caught up can say no.
            return await self._ask(self._query()) if await self._caught_up() else None
        return answer

    async def status(self) -> dict[str, Any]:
        """Return where the invocation stands: phase, and what it waits for.

        The phase is `unread` while its shard is behind and cannot say whether it is there.

        Raises:
            UnknownInvocation: No shard knows it.
            ResultTimeout: Its shard does not answer.
        """
        answer = await self._ask_surely()
        if answer is None:
            return {"invocation": self.invocation_id, "phase": "unread", "waits_for": [{"kind": "shard", "name": ""}]}
        if answer.status != "ok":
            raise UnknownInvocation(f"no shard knows {self.invocation_id}: {answer.message}")
        status: dict[str, Any] = orjson.loads(answer.value)
        return status

    async def signal(self, name: str, value: Any = None, *, signal_id: str | None = None) -> None:
        """Send a value to the handler that waits for it with `ctx.signal(name)`, now or later.

        Args:
            signal_id: The same ID is delivered once; by default a new one.
        """
        check_part("signal name", name)
        data = TypeAdapter(Any).dump_json(value)
        identity = signal_id or uuid.uuid4().hex
        await self._tell(Signal(self.invocation_id, name, data, identity, _now_ms()), "signal")

    async def cancel(self, reason: str = "cancelled by its caller") -> None:
        """Ask the invocation to end; its handler sees `CancelledError` and may clean up."""
        await self._tell(Cancel(self.invocation_id, reason, self._client, _now_ms()), "cancel")

    def _query(self) -> StatusQuery:
        return StatusQuery(self.invocation_id, self._client, uuid.uuid4().hex, _now_ms())

    def __repr__(self) -> str:
        return f"Handle({self.invocation_id!r})"


def _now_ms() -> int:
    return int(time.time() * 1000)
