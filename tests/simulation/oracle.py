"""What must be true when a world has become quiet: looked for in the topics and in the memory of the shards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from streams.app import App
from streams.broker.overflow import ORIGIN
from streams.broker.partitioning import partition_for
from streams.errors import CodecError
from streams.records import decode, decode_as
from streams.records.control import DeadLetter
from streams.records.headers import header
from streams.records.ids import input_digest
from streams.records.invocations import Invocation, Result
from streams.records.journal import AppliedWrites, Cursor, EvictedPage, EvictedSummary, FlushMarks, Marker
from streams.records.state import StateDelta
from streams.records.steps import ToolClaim
from streams.shards.engine import Engine
from streams.shards.live import CURSOR_KEY
from streams.shards.restore import Restored
from tests.simulation import sharing
from tests.simulation.application import Ask, Reply, deploy, link

_STAYS = (Cursor, Marker, AppliedWrites, EvictedPage, EvictedSummary, FlushMarks)
"""What a journal holds though nothing is live."""

if TYPE_CHECKING:
    from tests.simulation.world import World


class Oracle:
    """Finds what is wrong in a world that is quiet."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._results = [decode_as(Result, r.value or b"") for r in self._records("results")]
        self._originals: dict[str, list[Result]] = defaultdict(list)
        for result in self._results:
            if not result.repeated and result.error_type != "Conflict" and result.status != "deferred":
                self._originals[result.id].append(result)

    def problems(self) -> list[str]:
        """Return every violation that is found, in words."""
        parts = (
            self._world.problems, self._one_result(), self._repeats(), self._answers(), self._serial(),
            self._effects(), self._claims(), self._moves(), self._deltas(), self._cursors(), self._memory(),
            self._set_aside(),
            sharing.problems(self._world, self._originals),
        )  # fmt: skip
        return [problem for part in parts for problem in part]

    def _records(self, kind: str) -> list[Any]:
        return self._world.log.records(self._world.catalogue.name(kind))

    # -- results -------------------------------------------------------------------------------------------------------

    def _asked(self) -> dict[str, list[Invocation]]:
        asked: dict[str, list[Invocation]] = defaultdict(list)
        for kind in ("invocations", "inbox"):
            for record in self._records(kind):
                try:
                    found = decode(record.value or b"")
                except CodecError:
                    continue
                if isinstance(found, Invocation):
                    asked[found.id].append(found)
        return asked

    def _one_result(self) -> Iterator[str]:
        asked = self._asked()
        for identity in asked:
            count = len(self._originals.get(identity, ()))
            deferred = any(r.id == identity and r.status == "deferred" for r in self._results)
            if count != 1 and not (count == 0 and deferred):
                yield f"{identity} has {count} results"
        for identity in self._originals.keys() - asked.keys():
            yield f"{identity} has a result but was never asked for"

    def _repeats(self) -> Iterator[str]:
        for result in self._results:
            first = self._originals.get(result.id)
            if result.repeated and first and (result.value, result.status) != (first[0].value, first[0].status):
                yield f"{result.id} was repeated with another result"

    def _answers(self) -> Iterator[str]:
        for number, submission in enumerate(self._world.plan.submissions):
            answer = self._world.answers.get(number)
            if answer is None:
                yield f"{submission.id} was never answered"
                continue
            ask = Ask(key=submission.key, program=submission.program, tag=submission.tag)
            mine = input_digest(ask.model_dump_json().encode())
            first = self._originals.get(submission.id, [answer])[0]
            conflict = answer.error_type == "Conflict"
            if first.input_digest != mine and not conflict and answer.input_digest == mine:
                yield f"{submission.id} was answered with the result of another input"
            if not conflict and (answer.value, answer.status) != (first.value, first.status):
                yield f"{submission.id} was answered with {answer.status}, its result is {first.status}"

    # -- state ---------------------------------------------------------------------------------------------------------

    def _serial(self) -> Iterator[str]:
        """Run the invocations again, one after the other in the order of their results, on a model of the state."""
        instances: dict[str, dict[str, Any]] = defaultdict(
            lambda: {"chain": 0, "count": 0, "notes": 0, "bag": {}, "pasts": {(0, 0, 0)}}
        )
        for result in self._results:
            if result.status != "succeeded" or result.repeated:
                continue
            reply = Reply.model_validate_json(result.value or b"")
            state = instances[f"{result.agent}/{result.key}"]
            if result.agent == "delta" and result.version == "2":
                if (reply.chain, reply.count, reply.notes) not in state["pasts"]:
                    yield f"reader {result.id} saw a state that never was: {reply}"
                continue
            before = (reply.chain, reply.count, reply.notes, reply.bag)
            if before != (state["chain"], state["count"], state["notes"], state["bag"]):
                yield f"{result.id} began with {before}, but a serial execution had {state}"
            state["chain"] = link(state["chain"], result.id)
            state["count"] += reply.amount
            state["notes"] += reply.noted
            state["bag"] = reply.bagged
            state["pasts"].add((state["chain"], state["count"], state["notes"]))
        latest = {f"{owner}\x00{record}": delta for (owner, record), delta in self._world.store.state.items()}
        for record in self._records("state-deltas"):
            if record.value is None:
                continue  # no longer kept in the log; the store has it
            delta = decode_as(StateDelta, record.value)
            key = f"{delta.owner}\x00{delta.record}"
            if key not in latest or latest[key].sequence < delta.sequence:
                latest[key] = delta
        for owner, state in instances.items():
            for name in ("chain", "count"):
                found = latest.get(f"{owner}\x00{name}")
                stored = int(found.value or 0) if found else 0
                if stored != state[name]:
                    yield f"{owner}.{name} is {stored} in the log, {state[name]} in a serial execution"
            notes = sum(key.startswith(f"{owner}\x00notes#") for key in latest)
            if notes != state["notes"]:
                yield f"{owner} has {notes} notes in the log, {state['notes']} in a serial execution"

    def _effects(self) -> Iterator[str]:
        effects = self._world.outside.effects
        for (invocation, site), count in effects.items():
            if count > 1:
                yield f"effect {site} of {invocation} happened {count} times"
        for results in self._originals.values():
            result = results[0]
            if result.status != "succeeded":
                continue
            for seen in Reply.model_validate_json(result.value or b"").seen:
                paid = isinstance(seen, list) and seen[:1] == ["pay"] and seen[2] != -1
                if paid and (result.id, seen[1]) not in effects:
                    yield f"{result.id} was told that effect {seen[1]} happened, but it did not"

    def _claims(self) -> Iterator[str]:
        claims = Counter(decode_as(ToolClaim, r.value).id for r in self._records("tool-claims") if r.value)
        for step, count in claims.items():
            if count > 1:
                yield f"{step} was claimed {count} times"

    def _moves(self) -> Iterator[str]:
        # A lane takes the calls of its own partition: an origin names a topic and an offset there.
        moved = Counter((r.partition, header(r.headers, ORIGIN)) for r in self._records("tool-overflow"))
        for (number, origin), count in moved.items():
            if count > 1:
                yield f"call {origin} of partition {number} was moved {count} times to the overflow lane"

    def _deltas(self) -> Iterator[str]:
        sequences: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for record in self._records("state-deltas"):
            if record.value is None:
                continue
            delta = decode_as(StateDelta, record.value)
            epoch, sequence = sequences[record.partition]
            if delta.epoch < epoch or delta.sequence <= sequence:
                before = f"{(epoch, sequence)} in shard {record.partition}"
                yield f"state write {(delta.epoch, delta.sequence)} follows {before}"
            sequences[record.partition] = (delta.epoch, delta.sequence)

    # -- shards --------------------------------------------------------------------------------------------------------

    def _cursors(self) -> Iterator[str]:
        before: dict[int, Cursor] = {}
        for record in self._records("journal"):
            if record.key != CURSOR_KEY:
                continue
            cursor, last = decode_as(Cursor, record.value or b""), before.get(record.partition)
            before[record.partition] = cursor
            if last is None:
                continue
            back = [kind for kind, offset in last.positions.items() if cursor.positions.get(kind, 0) < offset]
            if back or (cursor.epoch, cursor.sequence, cursor.accepted) < (last.epoch, last.sequence, last.accepted):
                yield f"the cursor of shard {record.partition} went back: {last} then {cursor}"

    def _memory(self) -> Iterator[str]:
        world, owners = self._world, {}
        for role in world.roles.values():
            for number, processor in role.processors.items():
                if processor.ready.is_set() and not processor.stuck:
                    owners[number] = processor.engine
        for number in range(world.catalogue.partitions):
            restored = _restore(world, deploy(newest=True), number)
            if (engine := owners.get(number)) is None:
                yield f"shard {number} has no owner"
                continue
            yield from _differences(number, engine, restored)
            yield from _left_over(number, restored, world.now())

    def _set_aside(self) -> Iterator[str]:
        letters = [decode_as(DeadLetter, record.value or b"") for record in self._records("dead-letters")]
        unexpected = [letter for letter in letters if "ended its process" not in letter.reason]
        if len(unexpected) != self._world.garbage:
            reasons = [letter.reason[:80] for letter in unexpected[:4]]
            yield f"{len(unexpected)} dead letters for {self._world.garbage} records of garbage: {reasons}"


def _restore(world: World, app: App, number: int) -> Engine:
    restored = Restored()
    for kind, take in (("journal", restored.take_journal), ("state-deltas", restored.take_state)):
        log = world.log.partitions(world.catalogue.name(kind))[number]
        records = log.read(log.begin, 2**62, "read_committed")[0]
        take([(record.offset, record.timestamp_ms, record.key, record.value) for record in records])
    engine = Engine(
        app,
        partition=number,
        partition_of=lambda agent: partition_for(agent.encode(), world.catalogue.partitions),
        limits=world.settings.limits(1_000_000),
    )
    restored.into(engine, world.now())
    kept = {key: decode(value) for key, value in restored.journal.items()}
    strange = [key for key, record in kept.items() if not isinstance(record, _STAYS)]
    if strange:
        world.problems.append(f"shard {number} keeps {strange[:4]} in its journal though nothing is live")
    return engine


def _differences(number: int, engine: Engine, restored: Engine) -> Iterator[str]:
    for name in ("live", "early", "sequence", "accepted", "paused"):
        here, there = getattr(engine, name), getattr(restored, name)
        if here != there:
            yield f"shard {number}: {name} is {here} in memory, {there} in the log"
    for owner, records in restored.state.owners():
        here = engine.state.find(owner)
        if here is None or not here.complete or not records.complete:
            continue
        if {delta.record: delta for delta in here.all()} != {delta.record: delta for delta in records.all()}:
            yield f"shard {number}: state of {owner} differs between memory and log"
    if engine.applied._answers != restored.applied._answers:
        yield f"shard {number}: applied requests differ between memory and log"
    if engine.markers._markers.keys() != restored.markers._markers.keys():
        yield f"shard {number}: markers differ between memory and log"
    left = {
        "working": engine.handlers.working, "bytes": engine._live_bytes, "hot": engine.handlers._hot,
        "instances": engine.instances, "dirty": engine._dirty,
        "updates": engine.shared_steps._groups, "pauses": engine.shared_steps._dirty,
    }  # fmt: skip
    for name, found in left.items():
        if found:
            yield f"shard {number}: {name} is {found} though nothing is live"


def _left_over(number: int, engine: Engine, now: float) -> Iterator[str]:
    """Once the window has passed, a shard's journal holds nothing but its cursor."""
    known = {identity.encode() for identity in engine.markers._markers}
    writes = engine.step((), now + engine.limits.dedup_s + 60)
    gone = {write.key for write in writes if write.value is None}
    if known - gone:
        yield f"shard {number}: markers stay beyond the window: {sorted(known - gone)[:3]}"
