"""Claims of at-most-once calls: written before a call starts, through a producer that fences every earlier owner.

A claim without a result means `interrupted`: the call may have happened, and is never made again. Calls that move to
the overflow lane go through the same producers, so that nobody moves them who no longer owns the partition.

Tool workers and dispatchers of models each have a topic of claims and transactional IDs of their own: the owner of a
partition among the ones is not its owner among the others, and whoever fences must find nothing open of anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from streams.broker.open_transactions import check_nothing_open
from streams.broker.port import Broker, Message, Partition, Ring
from streams.broker.table import read_to_end
from streams.records import decode_as, encode, headers
from streams.records.ids import StepId
from streams.records.steps import ToolClaim
from streams.records.topics import Catalogue


class Claims:
    """The claims of one partition while this process owns it.

    Args:
        worker: Who claims.
        kept_s: Seconds after which a claim is forgotten; longer than a call may wait for its answer.
        of: What is claimed: calls of tools, or of models.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        partition: int,
        *,
        worker: str,
        kept_s: float,
        now: Callable[[], float] = time.time,
        of: Literal["tool", "llm"] = "tool",
    ) -> None:
        self._broker = broker
        self._kind = f"{of}-claims"
        self._topic = Partition(catalogue.name(self._kind), partition)
        self._written = [self._topic]
        ring = self._kind
        if of == "tool":
            self._written.append(Partition(catalogue.name("tool-overflow"), partition))
            ring = "claims"
        self._ring: Ring = broker.ring(f"{catalogue.namespace}-{ring}-{partition}")
        self._worker = worker
        self._kept_ms = kept_s * 1000
        self._now = now
        self._claims: dict[str, ToolClaim] = {}

    async def open(self) -> None:
        """Fence earlier owners, then read what they have claimed."""
        await self._ring.start()
        await check_nothing_open(self._broker, self._written)
        async for batch in read_to_end(self._broker, [self._topic]):
            for record in batch:
                if record.value is not None:
                    claim = decode_as(ToolClaim, record.value)
                    self._claims[str(claim.id)] = claim
                elif record.key is not None:
                    self._claims.pop(record.key.decode(), None)

    async def close(self) -> None:
        """Let go of the producers."""
        await self._ring.close()

    def holds(self, step: StepId) -> bool:
        """Tell whether a call was claimed, by this owner or an earlier one."""
        return str(step) in self._claims

    async def claim(self, step: StepId, called: str) -> None:
        """Claim a call of the tool or model pool *called*; once this returns, no other owner can start it.

        Raises:
            Fenced: Another owner has taken the partition over; the call must not be made here.
            CommitAmbiguous: Nobody knows whether the claim stands; the next owner will.
        """
        claim = ToolClaim(step.invocation, step.incarnation, step.step, called, self._worker, int(self._now() * 1000))
        key = str(step)
        self._claims[key] = claim
        await self._ring.transact([self._message(key, encode(claim)), *self._expired()])

    async def withdraw(self, step: StepId) -> None:
        """Take a claim back, because it is certain that nothing was done; whoever makes the call claims it anew.

        Raises:
            Fenced: Another owner has taken the partition over, and found the claim.
            CommitAmbiguous: Nobody knows whether the claim stands; the next owner will.
        """
        key = str(step)
        self._claims.pop(key, None)
        await self._ring.transact([self._message(key, None)])

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
        for key, claim in self._claims.items():
            if claim.claimed_at_ms >= horizon:
                break
            gone.append(key)
        for key in gone:
            del self._claims[key]
        return [self._message(key, None) for key in gone]

    def _message(self, key: str, value: bytes | None) -> Message:
        return Message(self._topic.topic, key.encode(), value, self._topic.number, headers.internal("tool-claim"))
