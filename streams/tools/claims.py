"""Claims of at-most-once calls: written before a call starts, through a producer that fences every earlier owner.

A claim without a result means `interrupted`: the call may have happened, and is never made again. Calls that move to
the overflow lane go through the same producers, so that nobody moves them who no longer owns the partition.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from streams.broker.open_transactions import check_nothing_open
from streams.broker.port import Broker, Message, Partition, Ring
from streams.broker.table import read_to_end
from streams.records import decode_as, encode, headers
from streams.records.ids import StepId
from streams.records.steps import ToolCall, ToolClaim
from streams.records.topics import Catalogue


class Claims:
    """The claims of one partition while this process owns it."""

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        partition: int,
        *,
        worker: str,
        kept_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._topic = Partition(catalogue.name("tool-claims"), partition)
        self._overflow = Partition(catalogue.name("tool-overflow"), partition)
        self._ring: Ring = broker.ring(f"{catalogue.namespace}-claims-{partition}")
        self._worker = worker
        self._kept_ms = kept_s * 1000
        self._now = now
        self._claims: dict[StepId, ToolClaim] = {}

    async def open(self) -> None:
        """Fence earlier owners, then read what they have claimed."""
        await self._ring.start()
        await check_nothing_open(self._broker, [self._topic, self._overflow])
        async for batch in read_to_end(self._broker, [self._topic]):
            for record in batch:
                if record.value is not None:
                    claim = decode_as(ToolClaim, record.value)
                    self._claims[claim.id] = claim
                elif record.key is not None:
                    self._forget(record.key)

    async def close(self) -> None:
        """Let go of the producers."""
        await self._ring.close()

    def holds(self, step: StepId) -> bool:
        """Tell whether a call was claimed, by this owner or an earlier one."""
        return step in self._claims

    async def claim(self, call: ToolCall) -> None:
        """Claim a call; once this returns, no other owner can start it.

        Raises:
            Fenced: Another owner has taken the partition over; the call must not be made here.
            CommitAmbiguous: Nobody knows whether the claim stands; the next owner will.
        """
        claim = ToolClaim(
            call.invocation, call.incarnation, call.step, call.tool, self._worker, int(self._now() * 1000)
        )
        self._claims[call.id] = claim
        await self._ring.transact([self._message(claim.id, encode(claim)), *self._expired()])

    async def move(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Write *messages* in one transaction and return their offsets.

        Raises:
            Fenced: Another owner has taken the partition over.
            CommitAmbiguous: Nobody knows whether they are written; the next owner will.
        """
        return await self._ring.transact(messages)

    def _expired(self) -> list[Message]:
        horizon = self._now() * 1000 - self._kept_ms
        gone = []
        for step, claim in self._claims.items():
            if claim.claimed_at_ms >= horizon:
                break
            gone.append(step)
        for step in gone:
            del self._claims[step]
        return [self._message(step, None) for step in gone]

    def _message(self, step: StepId, value: bytes | None) -> Message:
        return Message(self._topic.topic, str(step).encode(), value, self._topic.number, headers.internal("tool-claim"))

    def _forget(self, key: bytes) -> None:
        text = key.decode()
        for step in [step for step in self._claims if str(step) == text]:
            del self._claims[step]
