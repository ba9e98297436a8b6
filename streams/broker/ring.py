"""The order of transactions over a ring of transactional producers, the same for every adapter.

Which producer takes a transaction, when its records are sent and when it may commit is decided here; how a producer
begins, writes and commits is the adapter's (`TransactionalProducer`). Kept apart so that the simulation drives the very
code that guards the order on Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from streams.broker.port import Message
from streams.errors import BrokerError, CommitAmbiguous


class TransactionalProducer(Protocol):
    """One producer with a transactional ID of its own. It has at most one transaction at a time."""

    async def start(self) -> None:
        """Start, which ends an open transaction of an earlier owner of the ID and fences it."""
        ...

    async def write(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Begin a transaction, write *messages* and return their offsets once every one is acknowledged."""
        ...

    async def commit(self) -> None:
        """Commit what was written.

        Raises:
            CommitAmbiguous: No answer; it may or may not have happened.
        """
        ...

    async def stop(self, timeout_s: float) -> None:
        """Let go of everything within *timeout_s*. Never raises."""
        ...


class OrderedRing:
    """A `streams.broker.port.Ring` over *producers*.

    Transaction n uses producer n mod size. Its records are sent while n - 1 commits, but not before those of n - 1 are
    acknowledged: the two travel over different connections, and a key written by both must end with the later value.
    It commits only after n - 1 has committed: after an abort of n - 1, a commit of n would succeed if it were tried, so
    this order is the only guard.
    """

    def __init__(self, name: str, producers: Sequence[TransactionalProducer]) -> None:
        if not producers:
            raise ValueError(f"ring {name!r} needs at least one producer")
        self._name = name
        self._producers = tuple(producers)
        # One future per producer: resolved when its latest transaction has ended, well or badly.
        self._ended: list[asyncio.Future[None] | None] = [None] * len(self._producers)
        self._last: asyncio.Future[None] | None = None
        self._last_write: asyncio.Future[None] | None = None
        self._turn = 0
        self._error: BrokerError | None = None

    async def start(self) -> None:
        """Start all producers at once."""
        try:
            async with asyncio.TaskGroup() as group:
                for producer in self._producers:
                    group.create_task(producer.start())
        except* BrokerError as errors:
            self._error = _first(errors)
            await self.close()
        if self._error is not None:
            raise self._error

    async def transact(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Write *messages* in one transaction; see `streams.broker.port.Ring.transact`."""
        self._check()
        turn = self._turn % len(self._producers)
        self._turn += 1
        producer, same_producer = self._producers[turn], self._ended[turn]
        previous, previous_write = self._last, self._last_write
        loop = asyncio.get_running_loop()
        me = self._ended[turn] = self._last = loop.create_future()
        my_write = self._last_write = loop.create_future()
        committing = False
        try:
            await self._wait_for(same_producer)
            await self._wait_for(previous_write)
            offsets = await producer.write(messages) if messages else ()
            my_write.set_result(None)
            await self._wait_for(previous)
            if messages:
                committing = True
                await producer.commit()
        except BrokerError as error:
            self._error = self._error or error
            raise
        except BaseException as error:
            # A cancelled commit may still succeed, and what was sent stays in an open transaction: nobody may go on.
            phase = "commit" if committing else "write"
            self._error = self._error or CommitAmbiguous(
                f"transaction of ring {self._name!r} was interrupted during its {phase} ({type(error).__name__}); "
                "end this process, the next owner learns the outcome from the log"
            )
            raise
        finally:
            if not my_write.done():
                my_write.set_result(None)
            me.set_result(None)
        return offsets

    async def close(self, timeout_s: float = 5.0) -> None:
        """Wait for commits under way and stop the producers; together at most about twice *timeout_s*."""
        if self._last is not None and not self._last.done():
            await asyncio.wait([self._last], timeout=timeout_s)
        if self._error is None:
            self._error = BrokerError(f"ring {self._name!r} is closed")
        await asyncio.gather(*(producer.stop(timeout_s) for producer in self._producers))

    async def _wait_for(self, ended: asyncio.Future[None] | None) -> None:
        if ended is not None and not ended.done():
            # wait() rather than await: cancelling this transaction must not cancel the future of another one.
            await asyncio.wait((ended,))
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            # A fresh copy, because raising one instance again and again grows its traceback.
            raise type(self._error)(*self._error.args) from self._error


def _first(errors: BaseExceptionGroup[BrokerError]) -> BrokerError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
