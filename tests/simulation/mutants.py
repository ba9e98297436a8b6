"""Faults in the code itself, to see that the oracle finds them: each breaks one promise, by replacing a method.

A simulation that never fails proves nothing before it has been seen to fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from streams.broker.overflow import OverflowLane
from streams.broker.port import Message
from streams.broker.ring import OrderedRing
from streams.broker.simulated.broker import SimulatedTransactions
from streams.shards import ending, handlers
from streams.shards.applied import Applied
from streams.shards.cold import Miss
from streams.shards.cold_reads import ColdReads
from streams.shards.engine import Engine
from streams.shards.evicted import EvictedFilter
from streams.shards.flushed import Flushed
from streams.shards.live import CURSOR_KEY, RUNNING, Live
from streams.shards.memory import AgentRecords, StateStore
from streams.shards.outcomes import Outcomes
from streams.shards.processor import ShardProcessor
from streams.shards.role import ShardRole
from streams.shards.shared import SharedRecordsOwner
from streams.tools.claims import Claims


def commit_before_sends() -> AbstractContextManager[Any]:
    """The commit does not wait for the sends: what is sent late ends in the next transaction, or in none."""
    write, commit = SimulatedTransactions.write, SimulatedTransactions.commit

    async def write_late(self: Any, messages: Any) -> tuple[int, ...]:
        self.late = messages
        return tuple(range(len(messages)))

    async def commit_early(self: Any) -> None:
        await commit(self)
        await write(self, self.late)

    return patch.multiple(SimulatedTransactions, write=write_late, commit=commit_early)


def restore_before_fencing() -> AbstractContextManager[Any]:
    """The journal is read while an earlier owner can still write."""

    async def run(self: Any) -> None:
        ring = self._ring = self._broker.ring(f"{self._catalogue.namespace}-shard-{self.partition}")
        try:
            await self._restore()
            await ring.start()
            async with self._broker.reader(group=f"{self._catalogue.namespace}-shards") as reader:
                await self._assign(reader)
                await self._cycle(reader)
        finally:
            self.engine.close()
            await ring.close()

    return patch.object(ShardProcessor, "run", run)


@contextmanager
def reuse_after_rebalance() -> Iterator[None]:
    """A process that gets a shard back goes on with what it had in memory, whoever wrote since."""
    make, restore = ShardRole._processor, ShardProcessor._restore
    kept: dict[tuple[int, int], ShardProcessor] = {}
    roles: list[ShardRole] = []

    def processor(self: ShardRole, number: int) -> ShardProcessor:
        roles.append(self)
        new = make(self, number)
        old = kept.get((id(self), number))
        kept[id(self), number] = new
        if old is not None and old.ready.is_set():
            new.engine, new.positions, new.durable = old.engine, dict(old.durable), dict(old.durable)
            new.reused = True  # type: ignore[attr-defined]
        return new

    async def restored(self: ShardProcessor) -> None:
        if not getattr(self, "reused", False):
            await restore(self)

    with (
        patch.object(ShardRole, "_processor", processor),
        patch.object(ShardProcessor, "_restore", restored),
        patch.object(Engine, "close", lambda self: None),
    ):
        yield


def count_waiting_parents() -> AbstractContextManager[Any]:
    """Invocations that wait for children, timers or signals count towards the cap of those that work."""

    def saturated(self: Engine) -> bool:
        running = sum(live.phase == RUNNING for live in self.live.values())
        return running >= self.limits.max_working

    return patch.object(Engine, "saturated", property(saturated))


def drop_for_cold() -> AbstractContextManager[Any]:
    """A result is dropped when the handler that it is for is not in memory."""
    take = Outcomes.on_step

    def drop(self: Outcomes, result: Any) -> None:
        live = self._engine.live.get(result.invocation)
        if live is None or live.run is not None:
            take(self, result)

    return patch.object(Outcomes, "on_step", drop)


def no_claims() -> AbstractContextManager[Any]:
    """Nobody looks whether an at-most-once call was claimed."""
    return patch.object(Claims, "holds", lambda self, step: False)


def cursor_apart() -> AbstractContextManager[Any]:
    """The cursor is committed in a transaction of its own, before the effects of what it has passed."""
    transact = OrderedRing.transact

    async def apart(self: OrderedRing, messages: list[Message]) -> tuple[int, ...]:
        first = [message for message in messages if message.key == CURSOR_KEY]
        rest = [message for message in messages if message.key != CURSOR_KEY]
        return (*await transact(self, first), *await transact(self, rest))

    return patch.object(OrderedRing, "transact", apart)


def no_order_in_the_ring() -> AbstractContextManager[Any]:
    """The second producer commits without waiting for the first, and what was written is taken for committed."""

    async def transact(self: Any, messages: Any) -> tuple[int, ...]:
        turn = self._turn % len(self._producers)
        self._turn += 1
        producer = self._producers[turn]
        before, mine = self._ended[turn], asyncio.get_running_loop().create_future()
        self._ended[turn] = self._last = mine
        if before is not None:
            await asyncio.wait((before,))
        offsets = await producer.write(messages) if messages else ()

        async def commit() -> None:
            try:
                await producer.commit()
            except Exception as error:
                self._error = error
            finally:
                mine.set_result(None)

        self.commits = {*getattr(self, "commits", ()), asyncio.ensure_future(commit())}
        self._check()
        return tuple(offsets)

    return patch.object(OrderedRing, "transact", transact)


def state_without_result() -> AbstractContextManager[Any]:
    """What a handler changed becomes visible although it has failed."""
    conclude = ending.conclude

    def leak(live: Any, agent: Any, now: float, limit: int) -> Any:
        end = conclude(live, agent, now, limit)
        if end.result.status == "failed" and live.run is not None and not agent.concurrent:
            return replace(end, changes=tuple(live.run.collect()))
        return end

    return patch.object(handlers, "conclude", leak)


def forget_conflicts() -> AbstractContextManager[Any]:
    """A repeated invocation is run again."""
    return patch.object(Engine, "_on_invocation", Engine._accept)


def forget_moves() -> AbstractContextManager[Any]:
    """Who takes a partition over does not look which calls were moved to the overflow lane."""
    learn = OverflowLane.learn

    def forget(self: OverflowLane, records: Any, end: int) -> None:
        learn(self, records, end)
        self._replaced.clear()

    return patch.object(OverflowLane, "learn", forget)


def versions_unchecked() -> AbstractContextManager[Any]:
    """A shared record is written whoever has written since."""
    return patch.object(SharedRecordsOwner, "_expected", lambda self, request, version: True)


def predecessor_unchecked() -> AbstractContextManager[Any]:
    """An update is applied on any version that looks like what it was computed from."""
    return patch.object(
        SharedRecordsOwner, "_expected", lambda self, request, version: request.expected in (None, version)
    )


def applied_forgotten() -> AbstractContextManager[Any]:
    """The next owner of a shard does not know which writes to shared records were applied."""
    return patch.object(Applied, "restore", lambda self, record: None)


def evict_unflushed() -> AbstractContextManager[Any]:
    """State is evicted that the sink has not written yet."""
    return patch.object(Flushed, "advance", lambda self, offset: 2**62)


def tombstone_is_delete() -> AbstractContextManager[Any]:
    """An agent whose state has left the log counts as one that never had any."""
    return patch.object(EvictedFilter, "may_contain", lambda self, owner: False)


def filter_not_journaled() -> AbstractContextManager[Any]:
    """State leaves the log, and the next owner is not told."""
    return patch.object(EvictedFilter, "writes", lambda self: iter(()))


def part_for_the_whole() -> AbstractContextManager[Any]:
    """What the log still has of an agent counts as all of its state."""
    put = StateStore.put_encoded

    def whole(self: Any, *given: Any, sequence: int, complete: bool) -> None:
        put(self, *given, sequence=sequence, complete=True)

    return patch.object(StateStore, "put_encoded", whole)


def log_not_merged() -> AbstractContextManager[Any]:
    """What was read of the store replaces what the log has that is newer."""
    return patch.object(AgentRecords, "merge", lambda self, other: None)


def stale_reads() -> AbstractContextManager[Any]:
    """A store that has lost its last commits is believed."""
    return patch.object(Miss, "is_met", lambda self, deltas: True)


def newest_only() -> AbstractContextManager[Any]:
    """A store that has lost a commit is believed as long as it has a later one."""

    def newest_met(self: Any, deltas: Any) -> bool:
        return max((delta.sequence for delta in deltas), default=0) >= max(self.at_least.values(), default=0)

    return patch.object(Miss, "is_met", newest_met)


def outcome_unlearned() -> AbstractContextManager[Any]:
    """What came of an at-most-once call that nobody waits for is not noted."""
    return patch.object(Live, "learn", lambda self, index, outcome: None)


def tombstone_unseen() -> AbstractContextManager[Any]:
    """What is flushed leaves the log, without a look whether the store still has it."""

    async def all_there(self: Any, records: Any) -> Any:
        return AnyVersion()

    class AnyVersion(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            return AnyOrder()

    class AnyOrder:
        def __lt__(self, other: object) -> bool:
            return False

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    return patch.object(ColdReads, "versions", all_there)


MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "none": nullcontext,
    "commit before sends": commit_before_sends,
    "restore before fencing": restore_before_fencing,
    "reuse after a rebalance": reuse_after_rebalance,
    "count waiting parents": count_waiting_parents,
    "drop results for cold handlers": drop_for_cold,
    "claims skipped": no_claims,
    "cursor apart from effects": cursor_apart,
    "ring without order": no_order_in_the_ring,
    "state of failed handlers": state_without_result,
    "no deduplication": forget_conflicts,
    "moves forgotten": forget_moves,
    "shared writes unchecked": versions_unchecked,
    "predecessor unchecked": predecessor_unchecked,
    "applied writes forgotten": applied_forgotten,
    "evict above the watermark": evict_unflushed,
    "tombstone read as a delete": tombstone_is_delete,
    "filter not journaled": filter_not_journaled,
    "part taken for the whole": part_for_the_whole,
    "log not merged": log_not_merged,
    "stale reads believed": stale_reads,
    "newest read believed": newest_only,
    "outcome not learned": outcome_unlearned,
    "tombstoned unseen": tombstone_unseen,
}


def first_seed_that_finds(name: str, seeds: range) -> tuple[int, str] | None:
    """Return the first seed whose world goes wrong with a mutant, and what the oracle says."""
    from tests.simulation.runner import run_seed

    with MUTANTS[name]():
        for seed in seeds:
            verdict = run_seed(seed)
            if verdict.problems:
                return seed, verdict.problems[0]
    return None
