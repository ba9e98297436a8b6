"""What the simulated log does beyond the contract, which is tested over both logs: time, faults, compaction."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from streams.broker import LogRecord, Message, Partition, TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.broker.simulated.groups import spread
from streams.broker.simulated.timing import Timing
from streams.broker.table import Table, read_to_end
from streams.errors import BrokerUnavailable, CommitAmbiguous, Fenced, OwnershipLost
from streams.testing.virtual_time import run

PLACE = Partition("a", 0)


def made(seed: int = 0, partitions: int = 1, timing: Timing | None = None) -> SimulatedLog:
    log = SimulatedLog(Random(seed), timing=timing)
    log.create_topics([TopicSpec("a", partitions)])
    return log


def values(records: list[LogRecord]) -> list[bytes | None]:
    return [record.value for record in records]


def message(value: bytes | None, key: bytes = b"k") -> Message:
    return Message("a", key, value, partition=0)


class Told:
    def __init__(self) -> None:
        self.owned: list[frozenset[int]] = []

    async def assigned(self, partitions: frozenset[int]) -> None:
        self.owned.append(partitions)

    async def revoked(self, partitions: frozenset[int]) -> None:
        pass


def test_a_transaction_that_is_open_for_too_long_is_aborted_and_its_producer_fenced() -> None:
    async def main() -> None:
        log = made()
        ring = SimulatedBroker(log).ring("r", timeout_ms=5_000)
        await ring.start()
        await ring._producers[0].write([message(b"open")])
        log.write([message(b"behind it")])
        assert log.records("a") == []
        await asyncio.sleep(5.1)
        assert values(log.records("a")) == [b"behind it"]
        with pytest.raises(Fenced, match="exceeded its 5 s"):
            await ring._producers[0].commit()

    run(main())


def test_an_open_transaction_holds_back_only_what_comes_after_it() -> None:
    async def main() -> None:
        log = made()
        log.write([message(b"before")])
        epoch = log.start_producer("p", 10)
        log.write_transaction("p", epoch, [message(b"inside")])
        log.write([message(b"after")])
        assert values(log.records("a")) == [b"before"]
        assert values(log.records("a", "read_uncommitted")) == [b"before", b"inside", b"after"]
        assert (log.partition(PLACE).stable, log.partition(PLACE).end) == (1, 3)
        log.end_transaction("p", epoch, commit=False)
        assert values(log.records("a")) == [b"before", b"after"]
        assert log.partition(PLACE).stable == 4

    run(main())


def test_compaction_keeps_the_latest_of_each_key_at_its_offset() -> None:
    async def main() -> None:
        log = made()
        for number in range(3):
            log.write([message(b"%d" % number, key) for key in (b"x", b"y")])
        log.write([message(None, b"y")])
        assert log.compact("a", dirty=1) == 4
        assert [(r.offset, r.key, r.value) for r in log.records("a")] == [
            (4, b"x", b"2"),
            (5, b"y", b"2"),
            (6, b"y", None),
        ]
        assert log.compact("a", dirty=0, drop_tombstones=True) == 2
        assert [(r.offset, r.value) for r in log.records("a")] == [(4, b"2")]
        assert log.partition(PLACE).end == 7

    run(main())


def test_compaction_leaves_what_is_undecided() -> None:
    async def main() -> None:
        log = made()
        log.write([message(b"decided")])
        epoch = log.start_producer("p", 10)
        log.write_transaction("p", epoch, [message(b"open")])
        log.compact("a", dirty=0)
        log.end_transaction("p", epoch, commit=False)
        assert values(log.records("a")) == [b"decided"]

    run(main())


def test_a_request_that_meets_an_outage_is_carried_out_when_it_ends() -> None:
    async def main() -> float:
        log = made()
        broker = SimulatedBroker(log)
        log.outage(3)
        async with broker.producer() as producer:
            await asyncio.gather(*(producer.send(message(b"%d" % n)) for n in range(10)))
        assert values(log.records("a")) == [b"%d" % n for n in range(10)]
        return asyncio.get_running_loop().time()

    assert 3 < run(main()) < 4


def test_an_outage_beyond_the_timeout_raises_at_the_timeout() -> None:
    async def main() -> float:
        log = made()
        broker = SimulatedBroker(log)
        log.outage(60)
        with pytest.raises(BrokerUnavailable, match=r"simulated log gave no answer within 10 s \(writing\)"):
            await SimulatedBroker(log).producer().send(message(b"v"))
        assert log.records("a") == []
        async with broker.reader() as reader:
            with pytest.raises(BrokerUnavailable):
                await reader.assign({PLACE: 0})
        return asyncio.get_running_loop().time()

    assert 20 <= run(main()) < 21


def test_a_commit_that_meets_a_long_outage_is_ambiguous_and_both_outcomes_happen() -> None:
    async def main(seed: int) -> bool:
        log = made(seed, timing=Timing(latency_s=(0.01, 0.02), slow_every=0))
        ring = SimulatedBroker(log).ring("r", timeout_ms=60_000)
        await ring.start()
        doing = asyncio.create_task(ring.transact([message(b"v")]))
        while log.partition(PLACE).end == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        log.outage(60)
        with pytest.raises(CommitAmbiguous):
            await doing
        await asyncio.sleep(60)
        successor = SimulatedBroker(log).ring("r")
        await successor.start()
        return bool(log.records("a"))

    outcomes = [run(main(seed), seed=seed) for seed in range(30)]
    assert {True, False} == set(outcomes)


def test_what_a_dead_process_sent_may_or_may_not_arrive_and_it_never_hears_back() -> None:
    async def main(seed: int) -> bool:
        log = made(seed)
        process = Process("victim")
        heard: list[object] = []

        async def work() -> None:
            heard.append(await SimulatedBroker(log, process).producer().send(message(b"v")))

        process.kill_after(1)
        process.spawn(work())
        await asyncio.sleep(60)
        assert heard == []
        return bool(log.records("a"))

    assert {run(main(seed), seed=seed) for seed in range(20)} == {True, False}


async def test_on_an_ordinary_loop_calls_of_a_dead_process_never_return() -> None:
    broker = SimulatedBroker(made())
    broker.process.kill()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(broker.connect(), 0.1)


async def test_on_an_ordinary_loop_calls_of_a_frozen_process_return_after_thaw() -> None:
    broker = SimulatedBroker(made())
    broker.process.freeze()
    waiting = asyncio.create_task(broker.connect())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    broker.process.thaw()
    await asyncio.wait_for(waiting, 1)


@pytest.mark.parametrize("end", [Process.kill, Process.freeze])
def test_partitions_of_who_falls_silent_go_to_others_after_the_session_timeout(end: Callable[[Process], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log = made(partitions=4)
        victim, other = Process("victim"), Process("other")
        one = SimulatedBroker(log, victim).membership("g", "a")
        two, told = SimulatedBroker(log, other).membership("g", "a"), Told()
        await victim.spawn(one.start(Told()))
        await other.spawn(two.start(told))
        assert sorted([*one.owned, *two.owned]) == [0, 1, 2, 3]
        at = loop.time()
        end(victim)
        while two.owned != {0, 1, 2, 3}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert 5 < loop.time() - at < 8
        await two.confirm()
        if victim.frozen:
            confirming = victim.spawn(one.confirm())
            victim.thaw()
            with pytest.raises(OwnershipLost):
                await confirming
            # It learns with its next heartbeat, lets go and joins anew.
            await asyncio.sleep(5)
            assert len(one.owned) == len(two.owned) == 2

    run(main(), seed=1)


def test_a_static_member_that_restarts_in_time_keeps_its_partitions_without_a_rebalance() -> None:
    async def main() -> None:
        log = made(partitions=4)
        victim, other, again = Process("victim"), Process("other"), Process("victim-restarted")
        one = SimulatedBroker(log, victim).membership("g", "a", instance_id="one")
        two, told = SimulatedBroker(log, other).membership("g", "a", instance_id="two"), Told()
        await victim.spawn(one.start(Told()))
        await other.spawn(two.start(told))
        await asyncio.sleep(5)
        owned, heard = one.owned, len(told.owned)
        victim.kill()
        await asyncio.sleep(1)
        restarted = SimulatedBroker(log, again).membership("g", "a", instance_id="one")
        await again.spawn(restarted.start(Told()))
        assert restarted.owned == owned
        await asyncio.sleep(60)
        await again.spawn(restarted.confirm())
        assert len(told.owned) == heard

    run(main(), seed=2)


def test_a_member_that_does_not_let_go_in_time_is_left_behind() -> None:
    async def main() -> None:
        log = made(partitions=2)

        class Slow(Told):
            async def revoked(self, partitions: frozenset[int]) -> None:
                await asyncio.sleep(60)

        slow, quick = SimulatedBroker(log, "slow"), SimulatedBroker(log, "quick")
        one, two = slow.membership("g", "a"), quick.membership("g", "a")
        await one.start(Slow())
        await two.start(Told())
        assert two.owned == {0, 1}
        with pytest.raises(OwnershipLost):
            await one.confirm()

    run(main(), seed=3)


@pytest.mark.parametrize("members", [["m1"], ["m1", "m2"], ["m3", "m1", "m2"], ["m1", "m2", "m3", "m4", "m5"]])
@pytest.mark.parametrize(
    "before", [{}, {"m1": frozenset({0, 1, 2, 3})}, {"m1": frozenset({0, 1}), "gone": frozenset({2})}]
)
def test_partitions_are_spread_evenly_and_stay_where_they_can(
    members: list[str], before: dict[str, frozenset[int]]
) -> None:
    after = spread(range(4), members, before)
    assert sorted(p for owned in after.values() for p in owned) == [0, 1, 2, 3]
    sizes = [len(after[m]) for m in members]
    assert max(sizes) - min(sizes) <= 1
    fair = max(sizes)
    assert len(after["m1"] & before.get("m1", frozenset())) >= min(len(before.get("m1", ())), min(sizes), fair)


def test_a_table_goes_on_after_an_outage_without_repeating_or_missing_anything() -> None:
    async def main(seed: int) -> None:
        log = made(seed, partitions=3)
        seen: list[bytes | None] = []
        table = Table(SimulatedBroker(log), [Partition("a", n) for n in range(3)], random=Random(seed))
        table.on_record(lambda record: seen.append(record.value))
        async with table:
            for number in range(60):
                log.write([Message("a", b"key-%d" % number, b"%d" % number)])
                if number in (10, 30):
                    log.outage(5 if number == 10 else 40)
                await asyncio.sleep(1)
            await asyncio.sleep(60)
        assert sorted(seen, key=lambda v: int(v or 0)) == [b"%d" % n for n in range(60)]

    for seed in range(5):
        run(main(seed), seed=seed)


def test_a_table_whose_position_is_gone_reads_from_the_beginning_again() -> None:
    async def main() -> None:
        log = made()
        seen: list[bytes | None] = []
        table = Table(SimulatedBroker(log), [PLACE], random=Random(0))
        table.on_record(lambda record: seen.append(record.value))
        log.write([message(b"1"), message(b"2")])
        async with table:
            await table.wait_loaded()
            log.delete_topics(["a"])
            log.create_topics([TopicSpec("a", 1)])
            log.write([message(b"3")])
            async with asyncio.timeout(60):
                while seen != [b"1", b"2", b"3"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

    run(main())


def test_a_table_that_cannot_load_says_so() -> None:
    async def main() -> None:
        log = made()
        log.outage(1_000)
        async with Table(SimulatedBroker(log), [PLACE]) as table:
            with pytest.raises(BrokerUnavailable, match="a at simulated could not be read to the end within 30 s"):
                await table.wait_loaded(30)

    run(main())


def test_reading_to_the_end_passes_markers_and_aborted_records() -> None:
    async def main() -> None:
        log = made()
        for commit in (True, False, True, False):
            epoch = log.start_producer("p", 10)
            log.write_transaction("p", epoch, [message(b"%d" % commit)])
            log.end_transaction("p", epoch, commit=commit)
        found = [r async for batch in read_to_end(SimulatedBroker(log), [PLACE]) for r in batch]
        assert values(found) == [b"1", b"1"]

    run(main())


@pytest.mark.parametrize("seed", range(10))
def test_a_member_that_stands_still_while_it_joins_joins_again_when_it_wakes(seed: int) -> None:
    async def main() -> frozenset[int]:
        log = made(seed, partitions=3)
        dead, slow = Process("dead"), Process("slow")
        await dead.spawn(SimulatedBroker(log, dead).membership("group", "a").start(Told()))
        dead.kill()
        membership = SimulatedBroker(log, slow).membership("group", "a")
        joining = slow.spawn(membership.start(Told()))
        await asyncio.sleep(0.05)
        slow.freeze()  # it waits for the session of the dead one to end; by the seed, its own ends before
        await asyncio.sleep(60)
        slow.thaw()
        await joining
        await asyncio.sleep(10)
        return membership.owned

    assert run(main()) == frozenset({0, 1, 2})
