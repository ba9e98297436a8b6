"""State that has left memory: who waits for it, what it comes back as, what may leave the log."""

from typing import Any

import orjson
from pydantic import BaseModel

from streams import App, Context, Log
from streams.agents.state import log_entry
from streams.records import decode_as
from streams.records.ids import shared_id
from streams.records.signals import Answer, Cancel, SharedRequest, StateRead, StatusQuery
from streams.records.state import StateDelta
from streams.shards.cold import WAITS_FOR_STORE, Cold, Miss, StateArrived, Swept
from streams.shards.effects import Event
from streams.shards.engine import Engine
from streams.shards.late_writes import LATE_S
from streams.shards.restore import Restored
from tests.unit.shards.shard import Shard

app = App("cold")
NOTE = log_entry("notes", 0)


class Ask(BaseModel):
    key: str
    signal: bool = False


class Memory(BaseModel):
    count: int = 0
    name: str = "new"
    notes: Log[str] = Log()


@app.agent(key="key", state=Memory)
async def counter(ctx: Context[Memory], ask: Ask) -> list[Any]:
    if ask.signal:
        await ctx.signal("go")
    ctx.state.count += 1
    ctx.state.notes.append(f"n{ctx.state.count}")
    return [ctx.state.count, ctx.state.name, await ctx.state.notes.page()]


@app.agent(key="key")
async def stateless(ctx: Context[None], ask: Ask) -> str:
    return "done"


class Stored(Shard):
    """A shard whose state is written to a store, read back and evicted when the test says so."""

    def __init__(self) -> None:
        super().__init__(app)
        self.store: dict[tuple[str, str], StateDelta] = {}

    @property
    def cold(self) -> Cold:
        return self.engine.cold

    def flush(self) -> None:
        """Let the sink write everything."""
        for write in self.writes:
            if write.kind == "state-deltas" and write.value is not None:
                delta = decode_as(StateDelta, write.value)
                self.store[delta.owner, delta.record] = delta
        self.cold.flushed = self.engine.sequence

    def evict_all(self) -> None:
        self.cold.evict(10**9)

    def read(self) -> list[Miss]:
        """Answer every miss from the store."""
        misses = self.cold.take_wanted()
        for miss in misses:
            found = tuple(delta for (owner, _), delta in self.store.items() if owner == miss.owner)
            self.arrive(StateArrived(miss.owner, found), "store")
        return misses

    def sweep(self) -> None:
        """Let everything that the store has leave the log."""
        kept = tuple((f"{owner}\x00{record}".encode(), owner) for owner, record in self.store)
        self.cold.begin_sweep({owner for _, owner in kept})
        self.arrive(Swept(kept), "store")

    def values(self) -> list[Any]:
        return [orjson.loads(result.value or b"null") for result in self.results]

    def status(self, invocation: str) -> dict[str, Any]:
        self.arrive(StatusQuery(invocation, "client", "r", 0), "signals")
        found: dict[str, Any] = orjson.loads(self.written(Answer)[-1].value)
        return found


def test_evicted_state_is_read_before_the_handler_starts_and_others_go_on_meanwhile():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    assert len(shard.engine.state) == 0
    waiting = shard.invoke(counter, Ask(key="a"), "2")
    shard.invoke(counter, Ask(key="b"), "3")
    assert shard.values() == [[1, "new", ["n1"]], [1, "new", ["n1"]]]
    status = shard.status(waiting)
    assert status["phase"] == "waiting"
    assert status["waits_for"][0]["name"] == WAITS_FOR_STORE
    assert [miss.owner for miss in shard.read()] == ["counter/a"]
    assert shard.values()[-1] == [2, "new", ["n1", "n2"]]
    assert shard.cold.counters.misses == 1


def test_what_is_not_flushed_stays():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.invoke(counter, Ask(key="a"), "2")
    shard.evict_all()
    assert shard.engine.state.of("counter/a").complete
    assert shard.cold.counters.evicted == 0


def test_a_handler_that_has_begun_holds_on_to_its_state():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    identity = shard.invoke(counter, Ask(key="a", signal=True), "2")
    shard.flush()
    shard.evict_all()
    assert len(shard.engine.state) == 1
    shard.signal(identity, "go")
    assert shard.values()[-1] == [2, "new", ["n1", "n2"]]


def test_an_invocation_at_rest_lets_its_state_go_and_gets_what_came_for_it_when_that_is_back():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    identity = shard.invoke(counter, Ask(key="a", signal=True), "2")
    shard.flush()
    shard.engine.close()  # as `max_hot` drops handlers
    shard.evict_all()
    assert len(shard.engine.state) == 0
    shard.signal(identity, "go")
    assert shard.status(identity)["phase"] == "waiting"
    shard.read()
    assert shard.values()[-1] == [2, "new", ["n1", "n2"]]


def test_a_new_agent_costs_no_read():
    shard = Stored()
    for number in range(50):
        shard.invoke(counter, Ask(key=f"k{number}"), "1")
    shard.flush()
    shard.evict_all()
    shard.invoke(counter, Ask(key="never seen"), "2")
    assert shard.values()[-1] == [1, "new", ["n1"]]
    assert shard.cold.take_wanted() == []


def test_an_agent_without_state_never_waits():
    shard = Stored()
    shard.cold.filter.broken = "lost"
    shard.invoke(stateless, Ask(key="a"))
    assert shard.values() == ["done"]


def test_misses_of_one_agent_are_read_once():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    for number in range(2, 5):
        shard.invoke(counter, Ask(key="a"), str(number))
    assert len(shard.read()) == 1
    assert shard.values()[-1][0] == 4


def test_the_next_owner_knows_what_has_left_the_log():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    shard.sweep()
    assert sum(write.kind == "state-deltas" and write.value is None for write in shard.writes) == 2
    shard.restart()
    assert len(shard.engine.state) == 0
    shard.invoke(counter, Ask(key="a"), "2")
    assert [miss.owner for miss in shard.read()] == ["counter/a"]
    assert shard.values()[-1] == [2, "new", ["n1", "n2"]]


def test_what_is_in_memory_stays_in_the_log():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.sweep()
    assert shard.cold.counters.tombstoned == 0


def test_what_was_read_back_during_the_comparison_stays_in_the_log():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    shard.cold.begin_sweep({"counter/a"})
    shard.invoke(counter, Ask(key="a"), "2")
    shard.read()
    shard.arrive(Swept(((b"counter/a\x00count", "counter/a"),)), "store")
    assert shard.cold.counters.tombstoned == 0


def test_after_a_restore_the_part_in_the_log_is_not_taken_for_the_whole():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    name = StateDelta("counter/a", "name", b'"ada"', 1, 0, "tester", 0, vector={"tester": 1})
    shard.store["counter/a", "name"] = name
    shard.flush()
    shard.evict_all()
    shard.sweep()
    shard.invoke(counter, Ask(key="a"), "2")
    shard.read()
    assert shard.values()[-1] == [2, "ada", ["n1", "n2"]]
    shard.restart()
    assert not shard.engine.state.of("counter/a").complete
    shard.invoke(counter, Ask(key="a"), "3")
    shard.read()  # the store has the count of 1 still; the log has 2
    assert shard.values()[-1] == [3, "ada", ["n1", "n2", "n3"]]


def test_one_that_waits_still_waits_after_a_restart():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    shard.sweep()
    shard.invoke(counter, Ask(key="a"), "2")
    shard.restart()
    shard.wake()
    shard.read()
    assert shard.values()[-1][0] == 2


def test_a_deadline_that_passes_without_the_store_fails_with_its_reason():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    shard.invoke(counter, Ask(key="a"), "2")
    shard.cold.trouble = "Postgres at db:5432 is not available"
    shard.wake(3_600)
    result = shard.results[-1]
    assert (result.status, result.error_type) == ("failed", "StateUnavailable")
    assert "state of counter/a could not be read" in result.error_message
    assert "Postgres at db:5432 is not available" in result.error_message
    assert not shard.cold.still_wanted("counter/a")


def test_one_that_has_not_begun_is_cancelled_without_its_state():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    identity = shard.invoke(counter, Ask(key="a"), "2")
    shard.arrive(Cancel(identity, "enough", "tester", 0), "signals")
    assert shard.results[-1].status == "cancelled"


def test_the_store_is_held_to_what_it_had():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    shard.invoke(counter, Ask(key="a"), "2")
    (miss,) = shard.cold.take_wanted()
    has = {record: delta for (_, record), delta in shard.store.items()}
    assert miss.at_least == {record: delta.sequence for record, delta in has.items()}
    assert has.keys() == {"count", NOTE}
    assert miss.is_met(has.values())
    for lost in has:  # any of them, though the store has others that were written later
        assert not miss.is_met(delta for record, delta in has.items() if record != lost)


def test_what_was_written_long_ago_is_not_asked_of_the_store():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.now += 2 * LATE_S
    shard.flush()
    shard.evict_all()
    shard.invoke(counter, Ask(key="a"), "2")
    (miss,) = shard.cold.take_wanted()
    assert miss.at_least == {}
    assert miss.is_met(())


def test_what_is_written_again_is_asked_of_the_store_together_with_the_rest():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    lost = shard.store["counter/a", "count"]
    shard.cold.begin_sweep({"counter/a"})
    shard.arrive(Swept((), (lost,)), "store")
    shard.flush()
    shard.evict_all()
    shard.invoke(counter, Ask(key="a"), "2")
    (miss,) = shard.cold.take_wanted()
    assert miss.at_least == {"count": shard.engine.sequence, NOTE: shard.store["counter/a", NOTE].sequence}


def test_what_the_store_has_lost_is_written_again_as_something_newer():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    lost = shard.store.pop(("counter/a", "count"))
    shard.cold.begin_sweep({"counter/a"})
    shard.arrive(Swept((), (lost,)), "store")
    again = decode_as(StateDelta, [w for w in shard.writes if w.kind == "state-deltas"][-1].value or b"")
    assert (again.value, again.vector) == (lost.value, lost.vector)
    assert again.sequence > lost.sequence
    shard.invoke(counter, Ask(key="a"), "2")
    shard.read()
    assert shard.values()[-1] == [2, "new", ["n1", "n2"]]


def test_a_clients_read_of_evicted_state_waits_and_survives_a_restart():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    shard.flush()
    shard.evict_all()
    shard.sweep()
    shard.arrive(StateRead("counter/a", "count", "client", "r1", 0), "signals")
    assert shard.written(Answer) == []
    shard.restart()
    shard.read()
    assert orjson.loads(shard.written(Answer)[-1].value)["count"]["value"] == 1
    assert not [key for key in shard.journal.latest if b"deferred" in key]


def test_a_shared_record_that_was_evicted_is_checked_against_its_version():
    shard = Stored()
    owner = shared_id("risk", "r")

    def write(value: bytes, expected: dict[str, int] | None, request: str) -> None:
        shard.arrive(
            SharedRequest("risk", "r", "write", "w", 0, value, expected, client="client", request_id=request), "signals"
        )

    write(b"1", {}, "q1")
    shard.flush()
    shard.evict_all()
    assert not shard.cold.at_hand(owner)
    write(b"2", {}, "q2")
    write(b"3", {"w": 1}, "q3")
    assert len(shard.written(Answer)) == 1
    shard.read()
    assert [answer.status for answer in shard.written(Answer)] == ["ok", "conflict", "ok"]


def test_the_next_owner_holds_the_store_to_what_it_had_too():
    shard = Stored()
    shard.invoke(counter, Ask(key="a"), "1")
    state = [write for write in shard.writes if write.kind == "state-deltas"]
    restored = Restored(flushed_offset=100, room_bytes=1, now=shard.now)
    restored.take_state([(n, int(shard.now * 1000), write.key, write.value) for n, write in enumerate(state)])
    engine = Engine(app, partition=0, partition_of=lambda _: 0)
    restored.into(engine, shard.now)
    assert len(engine.state) == 0
    engine.cold.late.note("counter/b", {"count": 99}, shard.now)
    engine.step([Event("invocations", shard.invocation("counter", "a", b'{"key": "a"}', "2"))], shard.now)
    (miss,) = engine.cold.take_wanted()
    written = [decode_as(StateDelta, write.value or b"") for write in state]
    assert miss.at_least == {delta.record: delta.sequence for delta in written}
