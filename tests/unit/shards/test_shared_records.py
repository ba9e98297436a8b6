"""Records between agents: applied by one shard in one order, checked against their version, each request once."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from streams import App, Context, VersionConflict
from streams.records import decode, encode
from streams.records.signals import SharedRequest
from streams.records.versions import advance
from streams.shards.effects import Event
from tests.unit.shards.cluster import Cluster
from tests.unit.shards.shard import Shard

app = App("keepers")


class Order(BaseModel):
    key: str
    what: str = "bump"
    record: str = "r"
    value: Any = None
    expected: dict[str, int] | None = None
    attempts: int = 100


class Overdrawn(Exception):
    pass


def take_one(balance: int | None) -> int:
    if not balance:
        raise Overdrawn("nothing left")
    return balance - 1


def bump(count: int | None) -> int:
    return (count or 0) + 1


@app.agent(key="key")
async def keeper(ctx: Context[None], order: Order) -> Any:
    records = ctx.shared("risk")
    try:
        if order.what == "read":
            seen = await records.read(order.record)
            return [seen.value, seen.version, seen.exists]
        if order.what == "write":
            return await records.write(order.record, order.value, expected=order.expected)
        if order.what == "delete":
            return await records.delete(order.record, expected=order.expected)
        if order.what == "take":
            return (await records.update(order.record, take_one, raises=(Overdrawn,))).value
        if order.what == "random":
            return (await records.update(order.record, lambda _: ctx.random())).value
        if order.what == "nothing":
            return (await records.update(order.record, lambda _: None)).value
        if order.what == "object":
            return await records.write(order.record, object(), expected=None)
        if order.what == "fail after":
            await records.update(order.record, bump)
            raise ValueError("after the write")
        if order.what == "slow":
            counts = [(await records.update(order.record, bump)).value for _ in range(3)]
            await asyncio.sleep(3_000)
            return counts
        return (await records.update(order.record, bump, attempts=order.attempts)).value
    except Overdrawn as error:
        return f"overdrawn: {error}"
    except VersionConflict as error:
        return ["conflict", str(error), error.expected, error.current, list(error.writers), error.relation]


def from_desk(key: str, value: bytes, request_id: str) -> SharedRequest:
    """A client's write of whatever is there."""
    return SharedRequest("risk", key, "write", "desk", 0, value, None, client="c", request_id=request_id)


def record(key: str) -> str:
    return f"shared/risk/{key}"


def value_of(cluster: Cluster, invocation: str) -> Any:
    result = cluster.results[invocation]
    assert result.status == "succeeded", result.error_message
    return orjson.loads(result.value or b"null")


NUMBERS = count()


def ask(cluster: Cluster, key: str, what: str, **fields: Any) -> Any:
    """Ask a keeper and wait for what it returns."""
    identity = cluster.invoke(keeper, Order(key=key, what=what, **fields), f"{what}-{next(NUMBERS)}")
    cluster.settle()
    return value_of(cluster, identity)


@pytest.fixture(params=["same shard", "another shard"])
def places(request: pytest.FixtureRequest) -> tuple[Cluster, str, str]:
    """A cluster, an agent's key and the key of a record that its shard owns, or that another one does."""
    cluster = Cluster(app, 3)
    owner = 0 if request.param == "same shard" else 2
    return cluster, cluster.key_in(0), cluster.key_in(owner, record)


def test_a_record_is_read_written_and_deleted_with_its_version(places):
    cluster, key, where = places
    me = f"keeper/{key}"
    assert ask(cluster, key, "read", record=where) == [None, {}, False]
    assert ask(cluster, key, "write", record=where, value={"a": 1}, expected={}) == {me: 1}
    assert ask(cluster, key, "read", record=where) == [{"a": 1}, {me: 1}, True]
    assert ask(cluster, key, "delete", record=where, expected={me: 1}) == {me: 2}
    assert ask(cluster, key, "read", record=where) == [None, {me: 2}, False]
    last = cluster.deltas[-1]
    assert (last.owner, last.record, last.deleted, last.value) == (record(where), "value", True, None)
    assert (last.epoch, last.vector, last.writer) == (1, {me: 2}, me)
    assert ask(cluster, key, "write", record=where, value=None, expected={me: 2}) == {me: 3}
    assert ask(cluster, key, "read", record=where) == [None, {me: 3}, True]


def test_a_write_that_missed_others_names_them_and_changes_nothing(places):
    cluster, key, where = places
    other = cluster.key_in(1)
    me, them = f"keeper/{key}", f"keeper/{other}"
    ask(cluster, key, "write", record=where, value="mine", expected={})
    ask(cluster, other, "write", record=where, value="theirs", expected={me: 1})
    conflict = ask(cluster, key, "write", record=where, value="again", expected={me: 1})
    assert conflict[0] == "conflict"
    assert f"written since by {them}" in conflict[1]
    assert conflict[2:] == [{me: 1}, {me: 1, them: 1}, [them], "older"]
    assert ask(cluster, key, "delete", record=where, expected={me: 1})[0] == "conflict"
    assert ask(cluster, key, "read", record=where)[0] == "theirs"
    foreign = ask(cluster, key, "write", record=where, value="x", expected={"somebody": 7})
    assert foreign[-1] == "concurrent"
    assert ask(cluster, key, "write", record=where, value="x", expected={me: 9, them: 9})[-1] == "newer"
    owner = cluster.engines[cluster.partition_of(record(where))]
    assert owner.counters.shared_conflicts == {"risk": 4}


def test_without_an_expected_version_the_last_write_wins(places):
    cluster, key, where = places
    ask(cluster, key, "write", record=where, value=1, expected={})
    ask(cluster, key, "write", record=where, value=2)
    assert ask(cluster, key, "read", record=where)[0] == 2


def test_updates_of_many_agents_lose_nothing():
    cluster = Cluster(app, 4)
    where = cluster.key_in(3, record)
    for number in range(40):
        cluster.invoke(keeper, Order(key=f"a{number}", record=where), "k")
    cluster.settle()
    counts = [value_of(cluster, f"keeper/a{number}/k") for number in range(40)]
    assert sorted(counts) == list(range(1, 41))
    assert all(not len(engine.shared_steps) for engine in cluster.engines)
    assert all(not engine.shared_steps._groups for engine in cluster.engines)


def test_updates_that_wait_in_one_shard_go_together():
    cluster = Cluster(app, 2)
    where = cluster.key_in(1, record)
    keys = [cluster.key_in(0, start=number * 50) for number in range(20)]
    for key in keys:
        cluster.invoke(keeper, Order(key=key, record=where), "k")
    cluster.settle()
    requests = sum(isinstance(event, SharedRequest) for event in sent(cluster))
    assert sorted(value_of(cluster, f"keeper/{key}/k") for key in keys) == list(range(1, 21))
    assert requests == 1 + 20  # one read for all of them, and each one's write


def sent(cluster: Cluster) -> list[Any]:
    return [decode(write.value or b"") for write in cluster.writes if write.kind == "inbox"]


def test_the_next_update_of_a_record_tries_with_what_was_known_last():
    cluster = Cluster(app, 2)
    where, key = cluster.key_in(1, record), cluster.key_in(0)
    assert ask(cluster, key, "bump", record=where) == 1
    cluster.writes.clear()
    assert ask(cluster, key, "bump", record=where) == 2
    assert [record.operation for record in sent(cluster)] == ["write", "write"]  # the request and its outcome
    cluster.tell(1, from_desk(where, b"10", "1"))
    cluster.writes.clear()
    assert ask(cluster, key, "bump", record=where, attempts=1) == 11
    assert [record.status for record in sent(cluster) if hasattr(record, "status")] == ["conflict", "ok"]
    cluster.tell(1, from_desk(where, b"0", "2"))
    assert ask(cluster, key, "take", record=where) == "overdrawn: nothing left"


def test_an_update_gives_up_when_others_came_first_so_many_times():
    cluster = Cluster(app, 2)
    where, key = cluster.key_in(1, record), cluster.key_in(0)
    identity = cluster.invoke(keeper, Order(key=key, record=where, attempts=2), "k")
    for number in range(3):
        cluster.deliver(1)
        cluster.tell(
            1, SharedRequest("risk", where, "write", "desk", 0, b"1", None, client="c", request_id=str(number))
        )
        cluster.deliver(0)
        cluster.now += 1.0
        cluster.step(0)
    cluster.settle()
    found = value_of(cluster, identity)
    assert found[0] == "conflict"
    assert "others came first 2 times, at last desk" in found[1]


def test_an_exception_of_the_function_comes_from_what_the_record_really_held():
    cluster = Cluster(app, 2)
    where = cluster.key_in(1, record)
    first, second = cluster.key_in(0), cluster.key_in(0, start=500)
    cluster.tell(1, SharedRequest("risk", where, "write", "desk", 0, b"1", {}, client="c", request_id="1"))
    one = cluster.invoke(keeper, Order(key=first, what="take", record=where), "k")
    two = cluster.invoke(keeper, Order(key=second, what="take", record=where), "k")
    # Both wait for the same read. Before their writes arrive somebody puts money in: the second is not overdrawn.
    cluster.deliver(1)
    cluster.deliver(0)
    cluster.tell(1, from_desk(where, b"5", "2"))
    cluster.settle()
    assert [value_of(cluster, one), value_of(cluster, two)] == [4, 3]


def test_a_function_that_fails_writes_nothing(places):
    cluster, key, where = places
    assert ask(cluster, key, "take", record=where) == "overdrawn: nothing left"
    assert ask(cluster, key, "read", record=where) == [None, {}, False]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("random", "ctx.rng inside the function of an update"),
        ("nothing", "returned None; return the new value"),
        ("object", "cannot be stored: Unable to serialize unknown type"),
    ],
)
def test_what_cannot_be_stored_or_run_again_is_named(places, what, said):
    cluster, key, where = places
    identity = cluster.invoke(keeper, Order(key=key, what=what, record=where), "k")
    cluster.settle()
    result = cluster.results[identity]
    assert result.status == "failed"
    assert said in result.error_message


@pytest.mark.parametrize(
    ("where", "said"), [("", "is empty"), ("a\nb", "control character"), ("x" * 300, "300 characters exceeds 256")]
)
def test_a_key_that_ids_cannot_carry_is_refused(where, said):
    cluster = Cluster(app, 1)
    identity = cluster.invoke(keeper, Order(key="a", record=where), "k")
    assert cluster.results[identity].error_type == "InvalidInput"
    assert said in cluster.results[identity].error_message


def test_a_key_that_is_no_text_is_refused():
    other = App("numbers")

    @other.agent(key="key")
    async def wrong(ctx: Context[None], order: Order) -> None:
        await ctx.shared("risk").read(7)  # type: ignore[arg-type]

    shard = Shard(other)
    shard.invoke(wrong, Order(key="a"))
    assert "key in shared records 'risk' is 7, not text" in shard.results[0].error_message


def test_a_record_over_its_bound_is_refused(places):
    _, key, where = places
    cluster = Cluster(app, 3, max_payload_bytes=500)
    identity = cluster.invoke(keeper, Order(key=key, what="write", record=where, value="x" * 300), "k")
    cluster.settle()
    assert cluster.results[identity].status == "succeeded"
    refused = from_desk(where, b'"%b"' % (b"x" * 600), "1")
    answer = cluster.tell(cluster.partition_of(record(where)), refused)
    assert answer.status == "refused"
    assert f"{record(where)} of 0.00 MB exceeds 0.00 MB (max_payload_bytes)" in answer.message

    other = App("growing")

    @other.agent(key="key")
    async def grower(ctx: Context[None], order: Order) -> None:
        await ctx.shared("risk").update(order.record, lambda text: (text or "") + "x" * 300)
        await ctx.shared("risk").update(order.record, lambda text: (text or "") + "x" * 300)

    growing = Cluster(other, 3, max_payload_bytes=500)
    identity = growing.invoke(grower, Order(key=key, record=where), "k")
    growing.settle()
    assert f"{record(where)} after its update of 0.00 MB exceeds" in growing.results[identity].error_message


def test_what_was_written_stands_though_the_invocation_fails(places):
    cluster, key, where = places
    identity = cluster.invoke(keeper, Order(key=key, what="fail after", record=where), "k")
    cluster.settle()
    assert cluster.results[identity].status == "failed"
    assert ask(cluster, key, "read", record=where) == [1, {f"keeper/{key}": 1}, True]


def test_a_restarted_handler_sees_the_same_outcomes_and_writes_nothing_again(places):
    cluster, key, where = places
    identity = cluster.invoke(keeper, Order(key=key, what="slow", record=where), "k")
    cluster.settle()
    ask(cluster, cluster.key_in(1), "bump", record=where)
    for shard in range(3):
        cluster.restart(shard)
    cluster.now += 3_000
    cluster.settle()
    assert value_of(cluster, identity) == [1, 2, 3]
    assert ask(cluster, key, "read", record=where)[0] == 4


@pytest.mark.parametrize("moment", range(8))
def test_a_crash_between_any_two_transactions_loses_and_doubles_nothing(moment):
    cluster = Cluster(app, 2)
    where = cluster.key_in(1, record)
    keys = [cluster.key_in(0, start=number * 50) for number in range(4)]
    for key in keys:
        cluster.invoke(keeper, Order(key=key, record=where), "k")
    for number in range(moment):
        cluster.deliver(number % 2, 3)
    cluster.restart(0)
    cluster.restart(1)
    cluster.settle()
    assert sorted(value_of(cluster, f"keeper/{key}/k") for key in keys) == [1, 2, 3, 4]


def test_handlers_that_are_not_in_memory_update_all_the_same():
    cluster = Cluster(app, 2, max_hot=1)
    where = cluster.key_in(1, record)
    keys = [cluster.key_in(0, start=number * 50) for number in range(6)]
    for key in keys:
        cluster.invoke(keeper, Order(key=key, record=where), "k")
    cluster.settle()
    assert sorted(value_of(cluster, f"keeper/{key}/k") for key in keys) == [1, 2, 3, 4, 5, 6]


def test_a_request_that_comes_twice_is_applied_once_also_after_a_restart():
    cluster = Cluster(app, 1)
    request = from_desk("r", b"1", "1")
    first = cluster.tell(0, request)
    cluster.tell(0, from_desk("r", b"2", "2"))
    assert cluster.tell(0, request) == first
    cluster.restart(0)
    assert cluster.tell(0, request) == first
    assert [delta.value for delta in cluster.deltas] == [b"1", b"2"]
    mine = SharedRequest("risk", "r", "write", "keeper/a", 0, b"3", None, origin="keeper/a/k", step=1)
    cluster.step(0, Event("inbox", mine), Event("inbox", mine))
    assert [delta.value for delta in cluster.deltas] == [b"1", b"2", b"3"]
    assert cluster.deltas[-1].vector == {"desk": 2, "keeper/a": 1}


def test_what_was_applied_is_remembered_within_bounds():
    shard = Shard(app)
    for number in range(9_000):
        shard.arrive(
            SharedRequest("risk", f"r{number % 7}", "write", "desk", 0, b"1", None, "", 0, 0, "c", str(number))
        )
    portions = [value for key, value in shard.journal.latest.items() if key.startswith(b"\x00applied")]
    assert len(portions) == 128
    assert 127 * 64 < len(shard.engine.applied) <= 128 * 64
    shard.restart()
    assert 127 * 64 < len(shard.engine.applied) <= 128 * 64
    before = len(shard.writes)
    shard.arrive(from_desk("r1", b"1", "8999"))
    assert [write.kind for write in shard.writes[before:]] == ["answers"]


def test_a_request_for_another_shard_is_sent_on():
    cluster = Cluster(app, 2)
    where = cluster.key_in(1, record)
    request = SharedRequest("risk", where, "write", "desk", 0, b"1", {}, client="c", request_id="1")
    cluster.step(0, Event("inbox", request))
    assert not cluster.deltas
    cluster.settle()
    assert [delta.owner for delta in cluster.deltas] == [record(where)]
    assert cluster.engines[0].counters.forwarded == 1


def test_an_update_is_not_applied_on_a_version_that_only_looks_like_what_it_was_computed_from():
    other = App("parallel")

    @other.agent(key="key")
    async def both(ctx: Context[None], order: Order) -> None:
        records = ctx.shared("risk")
        await asyncio.gather(records.update(order.record, bump), records.update(order.record, bump))

    cluster = Cluster(other, 2)
    where, key = cluster.key_in(1, record), cluster.key_in(0, "both/{}".format)
    cluster.invoke(both, Order(key=key, record=where), "k")
    cluster.deliver(1)
    cluster.deliver(0)
    # Both updates are on their way, the second computed from the first. A third write of the same writer comes between,
    # and makes just the version that the first would have made.
    third = SharedRequest("risk", where, "write", f"both/{key}", 0, b"100", None, client="c", request_id="1")
    cluster.tell(1, third)
    cluster.settle()
    assert [delta.value for delta in cluster.deltas] == [b"100", b"101", b"102"]


def test_versions_on_the_log_follow_each_other():
    cluster = Cluster(app, 3)
    for number in range(60):
        cluster.invoke(keeper, Order(key=f"a{number % 20}", record="r"), f"k{number}")
    cluster.settle(seconds=20)
    before: dict[str, int] = {}
    for delta in cluster.deltas:
        assert delta.vector == advance(before, delta.writer)
        before = delta.vector
    assert sum(before.values()) == 60
    assert max(len(encode(delta)) for delta in cluster.deltas) < 700  # 16 writers are named, however many there are
