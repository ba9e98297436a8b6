"""Several shards for tests, whose inboxes are delivered in batches; each restarts from what it has written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from streams import App
from streams.broker.partitioning import partition_for
from streams.records import decode, decode_as
from streams.records.invocations import Invocation, Result
from streams.records.signals import Answer
from streams.records.state import StateDelta
from streams.shards.effects import Event, ShardLimits, Write
from streams.shards.engine import Engine
from streams.testing.journal import KeptJournal
from tests.unit.shards.shard import START_S


class Cluster:
    """So many shards of one namespace; what they write to each other's inbox waits until `deliver`."""

    def __init__(self, app: App, shards: int, **limits: Any) -> None:
        self.app = app
        self.limits = ShardLimits(**limits)
        self.now = START_S
        self.journals = [KeptJournal() for _ in range(shards)]
        self.inboxes: list[deque[Event]] = [deque() for _ in range(shards)]
        self.writes: list[Write] = []
        self.engines = [self._engine(number) for number in range(shards)]

    def partition_of(self, text: str) -> int:
        """Return the shard of an agent or a shared record."""
        return partition_for(text.encode(), len(self.journals))

    def key_in(self, shard: int, owner: Callable[[str], str] = "keeper/{}".format, start: int = 0) -> str:
        """Return a key, from number *start* on, whose agent or record the shard owns."""
        keys = (f"k{number}" for number in range(start, start + 10_000))
        return next(key for key in keys if self.partition_of(owner(key)) == shard)

    def restart(self, shard: int) -> None:
        """Start a shard anew from its journal."""
        self.engines[shard].close()
        self.engines[shard] = self._engine(shard)

    def invoke(self, agent: Any, request: Any, key: str = "k1") -> str:
        """Let an invocation arrive at its shard; return its ID."""
        instance, data = agent.encode_input(request)
        now_ms = int(self.now * 1000)
        invocation = Invocation(agent.name, instance, key, data, now_ms, now_ms + 3_600_000)
        self.step(self.partition_of(invocation.agent_id), Event("invocations", invocation))
        return invocation.id

    def step(self, shard: int, *events: Event) -> None:
        """Step one shard, commit, and put what it sends into the inboxes."""
        writes = self.engines[shard].step(events, self.now)
        self.journals[shard].keep(writes, self.engines[shard])
        for write in writes:
            if write.kind == "inbox":
                self.inboxes[write.partition].append(Event("inbox", decode(write.value or b"")))
        self.writes += writes

    def deliver(self, shard: int, most: int = 10_000) -> int:
        """Let a shard take what waits in its inbox, in one transaction; return how much it was."""
        inbox = self.inboxes[shard]
        batch = [inbox.popleft() for _ in range(min(most, len(inbox)))]
        if batch:
            self.step(shard, *batch)
        return len(batch)

    def settle(self, *, seconds: float = 5.0) -> None:
        """Deliver and let time pass until nobody sends anything more."""
        until = self.now + seconds
        while self.now < until:
            if not sum(self.deliver(shard) for shard in range(len(self.engines))):
                self.now += 0.01
                for shard in range(len(self.engines)):
                    self.step(shard)

    def tell(self, shard: int, record: Any) -> Answer:
        """Let a client's request arrive at a shard and return its answer."""
        self.step(shard, Event("signals", record))
        return [decode_as(Answer, write.value or b"") for write in self.writes if write.kind == "answers"][-1]

    @property
    def results(self) -> dict[str, Result]:
        """Results by invocation ID."""
        found = [decode_as(Result, write.value or b"") for write in self.writes if write.kind == "results"]
        return {result.id: result for result in found}

    @property
    def deltas(self) -> list[StateDelta]:
        """State writes, in the order of their transactions."""
        return [decode_as(StateDelta, write.value or b"") for write in self.writes if write.kind == "state-deltas"]

    def _engine(self, number: int) -> Engine:
        engine = Engine(self.app, partition=number, partition_of=self.partition_of, limits=self.limits)
        self.journals[number].restore(engine, self.now)
        return engine
