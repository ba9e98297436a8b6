"""What `streams.broker.port` promises, on Kafka and on the simulated log alike."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from streams.broker import Broker, Committed, LogRecord, Message, Partition, Reader, TopicSpec, partition_for
from streams.broker.port import Skimmed, SkimmedRecord
from streams.broker.table import Table, read_to_end, scan_to_end
from streams.errors import (
    BrokerError,
    BrokerUnavailable,
    Fenced,
    OwnershipLost,
    PositionOutOfRange,
    RecordTooLarge,
    TopicError,
)
from tests.integration.broker_worlds import REBALANCE_TIMEOUT_S, KafkaWorld, SimulatedWorld, World, all_of, new_topic


@pytest.fixture(params=["simulated", pytest.param("kafka", marks=pytest.mark.kafka)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made: World = SimulatedWorld() if request.param == "simulated" else KafkaWorld(request.getfixturevalue("kafka"))
    yield made
    await made.close()


@pytest.fixture
def broker(world: World) -> Broker:
    return world.broker()


async def values(broker: Broker, topic: str, partitions: int = 1) -> list[bytes | None]:
    found: list[bytes | None] = []
    async for batch in read_to_end(broker, all_of(topic, partitions)):
        found += [record.value for record in batch]
    return found


async def take(reader: Reader, count: int, *, within_s: float = 5.0) -> list[LogRecord]:
    """Poll until *count* records have come."""
    found: list[LogRecord] = []
    deadline = time.monotonic() + within_s
    while len(found) < count and time.monotonic() < deadline:
        for records in (await reader.poll(timeout_s=0.2)).values():
            found += records
    return found


async def skimmed(broker: Broker, positions: dict[Partition, int]) -> dict[Partition, list[SkimmedRecord]]:
    """Skim up to the ends."""
    found: dict[Partition, list[SkimmedRecord]] = {partition: [] for partition in positions}
    ends = await broker.admin.end_offsets(positions)
    async with asyncio.timeout(10):
        while behind := {p: position for p, position in positions.items() if position < ends[p]}:
            for partition, (position, records) in (await broker.admin.skim(behind, "h")).items():
                found[partition] += records
                positions[partition] = position
    return found


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 (what it waits for happens in the log)
            await asyncio.sleep(0.02)


def ring_name() -> str:
    return f"contract-{uuid.uuid4().hex[:8]}"


class TestProducerAndReader:
    async def test_records_come_back_as_they_were_sent(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        before_ms = int(time.time() * 1000)
        async with broker.producer() as producer, broker.reader() as reader:
            offsets = await producer.send(
                Message(topic, b"k", b"v", headers=(("type", b"x"), ("empty", b""))), Message(topic, b"k", None)
            )
            await reader.assign({Partition(topic, 0): 0})
            first, second = await take(reader, 2)
        assert offsets == (0, 1)
        assert (first.topic, first.partition, first.offset, first.key, first.value) == (topic, 0, 0, b"k", b"v")
        assert first.headers == (("type", b"x"), ("empty", b""))
        assert second.value is None
        if broker.address != "simulated":  # whose clock starts where it was told to
            assert abs(first.timestamp_ms - before_ms) < 60_000

    async def test_keys_choose_partitions_by_murmur2(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=5)
        keys = [f"dispute/cust-{number}".encode() for number in range(20)]
        async with broker.producer() as producer:
            await producer.send(*(Message(topic, key, b"v") for key in keys))
        async for batch in read_to_end(broker, all_of(topic, 5)):
            for record in batch:
                assert record.key is not None
                assert record.partition == partition_for(record.key, 5)

    async def test_concurrent_sends_keep_their_order_within_a_partition(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer:
            tasks = [asyncio.create_task(producer.send(Message(topic, b"k", b"%d" % n))) for n in range(100)]
            await asyncio.gather(*tasks)
        assert await values(broker, topic) == [b"%d" % n for n in range(100)]

    async def test_poll_returns_when_a_record_arrives_and_is_empty_after_its_timeout(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(Message(topic, b"k", b"warm"))
            await reader.assign({Partition(topic, 0): 1})
            started = time.monotonic()
            assert await reader.poll(timeout_s=0.3) == {}
            assert 0.2 < time.monotonic() - started < 2
            polling = asyncio.create_task(reader.poll(timeout_s=10))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            await producer.send(Message(topic, b"k", b"v"))
            found = await polling
            assert time.monotonic() - started < 1
        assert [r.value for r in found[Partition(topic, 0)]] == [b"v"]

    async def test_poll_of_some_partitions_leaves_the_others_for_later(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(*(Message(topic, b"k", b"%d" % p, partition=p) for p in (0, 1) for _ in range(10)))
            await reader.assign(dict.fromkeys(all_of(topic, 2), 0))
            found: list[LogRecord] = []
            while len(found) < 10:
                batches = await reader.poll([Partition(topic, 1)], timeout_s=2)
                assert set(batches) <= {Partition(topic, 1)}
                found += batches[Partition(topic, 1)]
            assert len(await take(reader, 10)) == 10

    async def test_poll_returns_at_most_max_records(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(*(Message(topic, b"k", b"v", partition=p) for p in (0, 1) for _ in range(10)))
            await reader.assign(dict.fromkeys(all_of(topic, 2), 0))
            seen = 0
            while seen < 20:
                found = await reader.poll(max_records=3, timeout_s=2)
                assert 0 < sum(map(len, found.values())) <= 3
                seen += sum(map(len, found.values()))

    async def test_pause_holds_a_partition_and_resume_goes_on_where_it_was(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2)
        held, other = all_of(topic, 2)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(*(Message(topic, b"k", b"%d" % n, partition=0) for n in range(10)))
            await reader.assign({held: 0, other: 0})
            first = (await reader.poll(max_records=4, timeout_s=2))[held]
            reader.pause([held])
            reader.pause([held])
            await producer.send(Message(topic, b"k", b"other", partition=1))
            assert [r.value for r in await take(reader, 1)] == [b"other"]
            assert await reader.poll(timeout_s=0.3) == {}
            assert await reader.position(held) == len(first)
            reader.resume([held])
            reader.resume([held])
            rest = await take(reader, 10 - len(first))
        assert [r.value for r in first + rest] == [b"%d" % n for n in range(10)]

    async def test_a_waiting_poll_returns_what_resume_lets_through(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(Message(topic, b"k", b"v"))
            await reader.assign({Partition(topic, 0): 0})
            reader.pause([Partition(topic, 0)])
            polling = asyncio.create_task(reader.poll(timeout_s=10))
            await asyncio.sleep(0.2)
            reader.resume([Partition(topic, 0)])
            assert len((await asyncio.wait_for(polling, 3))[Partition(topic, 0)]) == 1

    async def test_seek_goes_back_and_forth(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(*(Message(topic, b"k", b"%d" % n) for n in range(10)))
            await reader.assign({Partition(topic, 0): 0})
            await reader.poll(max_records=2, timeout_s=2)
            await reader.seek(Partition(topic, 0), 8)
            assert [r.offset for r in await take(reader, 2)] == [8, 9]
            await reader.seek(Partition(topic, 0), 0)
            assert [r.offset for r in await take(reader, 10)] == list(range(10))

    async def test_assign_replaces_what_was_assigned(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(*(Message(topic, b"k", b"%d" % p, partition=p) for p in (0, 1)))
            await reader.assign({Partition(topic, 0): 0})
            await take(reader, 1)
            await reader.assign({Partition(topic, 1): 0})
            assert [r.partition for r in await take(reader, 1)] == [1]
            assert await reader.poll(timeout_s=0.2) == {}

    async def test_committed_positions_are_found_by_the_groups_name(self, broker: Broker) -> None:
        topic, group = await new_topic(broker, partitions=2), ring_name()
        async with broker.producer() as producer, broker.reader(group=group) as reader:
            await producer.send(Message(topic, b"k", b"v", partition=0))
            await reader.assign(dict.fromkeys(all_of(topic, 2), 0))
            await reader.commit({Partition(topic, 0): 1})
        assert await broker.admin.group_offsets(group, all_of(topic, 2)) == {Partition(topic, 0): 1}
        async with broker.reader() as reader:
            with pytest.raises(ValueError, match="group"):
                await reader.commit({Partition(topic, 0): 1})

    async def test_notes_are_kept_with_the_position_and_replaced_with_it(self, broker: Broker) -> None:
        topic, group = await new_topic(broker, partitions=2), ring_name()
        first, second = all_of(topic, 2)
        async with broker.reader(group=group) as reader:
            await reader.assign({first: 0, second: 0})
            await reader.commit({first: 0, second: 0}, {first: "3 open"})
            found = await broker.admin.committed(group, [first, second])
            assert found == {first: Committed(0, "3 open"), second: Committed(0)}
            await reader.commit({first: 0})
        assert await broker.admin.committed(group, [first, second]) == {first: Committed(0), second: Committed(0)}

    async def test_stamps_are_those_of_the_records_at_the_positions(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=3)
        first, second, empty = all_of(topic, 3)
        async with broker.producer() as producer:
            for number in (0, 0, 1):
                await producer.send(Message(topic, b"k", b"v" * 5_000, partition=number))
                await asyncio.sleep(0.01)
        async with broker.reader() as reader:
            await reader.assign({first: 0, second: 0})
            records = {(r.partition, r.offset): r.timestamp_ms for r in await take(reader, 3)}
        stamps = await broker.admin.stamps_at({first: 1, second: 0, empty: 0})
        assert stamps == {first: records[0, 1], second: records[1, 0]}
        assert await broker.admin.stamps_at({first: 0, second: 1}) == {first: records[0, 0]}
        assert await broker.admin.stamps_at({}) == {}

    async def test_skimming_gives_committed_records_without_their_values(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2)
        first, second = all_of(topic, 2)
        ring = broker.ring(ring_name())
        await ring.start()
        await ring.transact(
            [Message(topic, b"a/1", b"v", 0, (("g", b"0"), ("h", b"1"))), Message(topic, b"a/2", None, 0)]
        )
        async with broker.producer() as producer:
            await producer.send(*(Message(topic, b"b/%d" % n, b"v" * 2_000, 1) for n in range(2_000)))
        found = await skimmed(broker, {first: 0, second: 5})
        stamps = await broker.admin.stamps_at({first: 0})
        assert [(r[0], r[2], r[3]) for r in found[first]] == [(0, b"a/1", b"1"), (1, b"a/2", None)]
        assert found[first][0][1] == stamps[first]
        assert [(r[0], r[2]) for r in found[second]] == [(n, b"b/%d" % n) for n in range(5, 2_000)]
        assert await broker.admin.skim({}) == {}
        assert await broker.admin.skim({first: 99}) == {}
        await ring.close()

    async def test_scanning_gives_what_is_committed_before_the_end_with_its_values(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        topic = await new_topic(broker)
        (source,) = all_of(topic, 1)
        ring = broker.ring(ring_name())
        await ring.start()
        await ring.transact([Message(topic, b"a/%d" % n, b"v" * 2_000, 0) for n in range(1_000)])
        await ring.transact([Message(topic, b"a/0", None, 0)])

        async def scanned() -> list[SkimmedRecord]:
            return [record async for batch in scan_to_end(broker, source) for record in batch]

        found = await scanned()
        assert [(r[0], r[2], r[3]) for r in found[:1_000]] == [(n, b"a/%d" % n, b"v" * 2_000) for n in range(1_000)]
        assert [(r[0], r[2], r[3]) for r in found[1_000:]] == [(1_001, b"a/0", None)]
        assert found[0][1] == (await broker.admin.stamps_at({source: 0}))[source]
        assert await broker.admin.scan({}) == {}
        assert await broker.admin.scan({source: 99_999}) == {}

        async def nothing(_: object) -> dict[Partition, Skimmed]:
            return {}

        with monkeypatch.context() as patched:
            patched.setattr(broker.admin, "scan", nothing)
            assert await scanned() == found
        await ring.close()

    async def test_a_message_without_key_and_partition_is_refused(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer:
            with pytest.raises(ValueError, match="neither key nor partition"):
                await producer.send(Message(topic, None, b"v"))
            with pytest.raises(ValueError, match="neither key nor value"):
                await producer.send(Message(topic, None, None, partition=0))
            assert await producer.send(Message(topic, None, b"v", partition=0)) == (0,)


class TestPositionsOutsideTheLog:
    async def test_a_position_before_the_beginning_raises(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(*(Message(topic, b"k", b"v") for _ in range(10)))
            await broker.admin.delete_records({Partition(topic, 0): 5})
            await reader.assign({Partition(topic, 0): 3})
            with pytest.raises(PositionOutOfRange, match=rf"position 3 of {topic}\[0\] .*5 to 10"):
                await take(reader, 1)
            await reader.seek(Partition(topic, 0), 5)
            assert [r.offset for r in await take(reader, 5)] == [5, 6, 7, 8, 9]

    async def test_a_position_beyond_the_end_raises(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer, broker.reader() as reader:
            await producer.send(Message(topic, b"k", b"v"))
            await reader.assign({Partition(topic, 0): 2})
            with pytest.raises(PositionOutOfRange, match=r"position 2 .*0 to 1"):
                await take(reader, 1)

    async def test_deleting_below_the_beginning_changes_nothing(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        place = Partition(topic, 0)
        async with broker.producer() as producer:
            await producer.send(*(Message(topic, b"k", b"v") for _ in range(10)))
        await broker.admin.delete_records({place: 5})
        await broker.admin.delete_records({place: 3})
        assert await broker.admin.begin_offsets([place]) == {place: 5}
        assert await broker.admin.end_offsets([place]) == {place: 10}


class TestRing:
    async def test_transactions_become_visible_whole_and_in_call_order(self, broker: Broker) -> None:
        first, second = await new_topic(broker), await new_topic(broker)
        ring = broker.ring(ring_name())
        await ring.start()
        calls = [
            asyncio.create_task(ring.transact([Message(t, b"k", b"%d" % n, partition=0) for t in (first, second)]))
            for n in range(50)
        ]
        offsets = await asyncio.gather(*calls)
        await ring.close()
        expected = [b"%d" % n for n in range(50)]
        assert await values(broker, first) == expected
        assert await values(broker, second) == expected
        assert [pair[0] for pair in offsets] == sorted(pair[0] for pair in offsets)

    async def test_offsets_are_those_of_the_records(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=3)
        ring = broker.ring(ring_name())
        await ring.start()
        messages = [Message(topic, b"key-%d" % n, b"%d" % n) for n in range(20)]
        offsets = await ring.transact(messages)
        await ring.close()
        found: dict[bytes | None, tuple[int, int]] = {}
        async for batch in read_to_end(broker, all_of(topic, 3)):
            found |= {r.value: (r.partition, r.offset) for r in batch}
        for message, offset in zip(messages, offsets, strict=True):
            assert message.key is not None
            assert found[message.value] == (partition_for(message.key, 3), offset)

    async def test_large_transactions_are_written_in_order(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        ring = broker.ring(ring_name())
        await ring.start()
        # Several batches of one partition in one transaction.
        offsets = await ring.transact([Message(topic, b"k", b"%06d" % n + b"x" * 2_000) for n in range(600)])
        await ring.close()
        assert list(offsets) == sorted(offsets)
        assert [value[:6] for value in await values(broker, topic) if value] == [b"%06d" % n for n in range(600)]

    async def test_an_empty_transaction_keeps_its_place(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        ring = broker.ring(ring_name())
        await ring.start()
        written, nothing = await asyncio.gather(ring.transact([Message(topic, b"k", b"1")]), ring.transact([]))
        assert (written, nothing) == ((0,), ())
        await ring.close()

    async def test_a_later_owner_fences_an_earlier_one(self, world: World) -> None:
        old_process, new_process = world.broker(), world.broker()
        topic, name = await new_topic(old_process), ring_name()
        old, new = old_process.ring(name), new_process.ring(name)
        await old.start()
        await old.transact([Message(topic, b"k", b"old")])
        await new.start()
        with pytest.raises(Fenced, match=name):
            await old.transact([Message(topic, b"k", b"zombie")])
        with pytest.raises(Fenced):
            await old.transact([Message(topic, b"k", b"zombie again")])
        await new.transact([Message(topic, b"k", b"new")])
        await old.close()
        assert await values(new_process, topic) == [b"old", b"new"]
        await new.close()

    async def test_a_later_owner_ends_what_an_earlier_one_left_open(self, world: World) -> None:
        old_process, new_process = world.broker(), world.broker()
        topic, name = await new_topic(old_process), ring_name()
        place = Partition(topic, 0)
        old, new = old_process.ring(name), new_process.ring(name)
        await old.start()
        await old.transact([Message(topic, b"k", b"old")])
        # Written, acknowledged, never committed: what a process leaves that dies before its commit.
        await old._producers[1].write([Message(topic, b"k", b"open")])  # type: ignore[attr-defined]
        assert await new_process.admin.end_offsets([place]) == {place: 2}
        async with new_process.producer() as producer:
            await producer.send(Message(topic, b"k", b"hidden behind it"))
        assert await values(new_process, topic) == [b"old"]
        await new.start()
        assert await values(new_process, topic) == [b"old", b"hidden behind it"]
        await new.transact([Message(topic, b"k", b"new")])
        assert await values(new_process, topic) == [b"old", b"hidden behind it", b"new"]
        await new.close()
        await old.close()

    async def test_sends_go_early_but_the_commit_waits_for_the_one_before(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        place = Partition(topic, 0)
        ring = broker.ring(ring_name())
        await ring.start()
        held, commit = asyncio.Event(), ring._producers[0].commit  # type: ignore[attr-defined]

        async def late_commit() -> None:
            await held.wait()
            await commit()

        ring._producers[0].commit = late_commit  # type: ignore[attr-defined]
        first = asyncio.create_task(ring.transact([Message(topic, b"k", b"first")]))
        second = asyncio.create_task(ring.transact([Message(topic, b"k", b"second")]))

        async def both_sent() -> bool:
            return (await broker.admin.end_offsets([place], isolation="read_uncommitted"))[place] == 2

        await eventually(both_sent)
        await asyncio.sleep(0.1)
        assert not second.done()
        assert await values(broker, topic) == []
        held.set()
        assert [await first, await second] == [(0,), (1,)]
        assert await values(broker, topic) == [b"first", b"second"]
        await ring.close()

    async def test_after_an_error_the_ring_is_unusable(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        ring = broker.ring(ring_name())
        await ring.start()
        await ring.transact([Message(topic, b"k", b"fine")])
        with pytest.raises(RecordTooLarge, match=topic):
            await ring.transact([Message(topic, b"k", b"small"), Message(topic, b"k", b"x" * 2_000_000)])
        with pytest.raises(RecordTooLarge):
            await ring.transact([Message(topic, b"k", b"fine too")])
        await ring.close()
        assert await values(broker, topic) == [b"fine"]

    async def test_a_failed_transaction_takes_the_one_after_it_along(self, broker: Broker) -> None:
        topic, small = await new_topic(broker), await new_topic(broker, max_message_bytes="1000")
        ring = broker.ring(ring_name())
        await ring.start()
        results = await asyncio.gather(
            ring.transact([Message(topic, b"k", b"1")]),
            ring.transact([Message(topic, b"k", b"2"), Message(small, b"k", b"x" * 5_000)]),
            ring.transact([Message(topic, b"k", b"3")]),
            return_exceptions=True,
        )
        assert results[0] == (0,)
        assert isinstance(results[1], RecordTooLarge)
        assert isinstance(results[2], RecordTooLarge)
        await ring.close()
        assert await values(broker, topic) == [b"1"]

    async def test_a_cancelled_transaction_ends_the_ring(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        ring = broker.ring(ring_name())
        await ring.start()
        await ring.transact([Message(topic, b"k", b"1")])
        doing = asyncio.create_task(ring.transact([Message(topic, b"k", b"2")]))
        await asyncio.sleep(0)
        doing.cancel()
        await asyncio.wait([doing])
        with pytest.raises(BrokerError, match="interrupted"):
            await ring.transact([Message(topic, b"k", b"3")])
        await ring.close()

    async def test_close_waits_for_commits_and_refuses_what_comes_later(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        ring = broker.ring(ring_name())
        await ring.start()
        doing = asyncio.create_task(ring.transact([Message(topic, b"k", b"v")]))
        await asyncio.sleep(0)
        await ring.close()
        assert doing.done()
        assert await values(broker, topic) == [b"v"]
        with pytest.raises(BrokerError, match="closed"):
            await ring.transact([Message(topic, b"k", b"late")])
        await ring.close()


class TestMarkers:
    async def test_position_moves_past_markers_and_aborted_records(self, world: World) -> None:
        broker, other = world.broker(), world.broker()
        topic, name = await new_topic(broker), ring_name()
        place = Partition(topic, 0)
        ring = broker.ring(name)
        await ring.start()
        await ring.transact([Message(topic, b"k", b"1")])
        await ring._producers[1].write([Message(topic, b"k", b"aborted")])  # type: ignore[attr-defined]
        successor = other.ring(name)
        await successor.start()
        end = (await other.admin.end_offsets([place]))[place]
        assert end == 4  # two records, two markers
        async with other.reader() as reader:
            await reader.assign({place: 0})
            assert [r.value for r in await take(reader, 1)] == [b"1"]
            await reader.poll(timeout_s=0.3)
            assert await reader.position(place) == end
        await ring.close()
        await successor.close()

    async def test_read_uncommitted_sees_open_transactions(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        place = Partition(topic, 0)
        ring = broker.ring(ring_name())
        await ring.start()
        await ring._producers[0].write([Message(topic, b"k", b"open")])  # type: ignore[attr-defined]
        assert await broker.admin.end_offsets([place]) == {place: 0}
        assert await broker.admin.end_offsets([place], isolation="read_uncommitted") == {place: 1}
        async with broker.reader(isolation="read_uncommitted") as reader:
            await reader.assign({place: 0})
            assert [r.value for r in await take(reader, 1)] == [b"open"]
        await ring.close()


class Ownership:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, frozenset[int]]] = []
        self.hold: asyncio.Event | None = None
        self.revoking = asyncio.Event()

    async def assigned(self, partitions: frozenset[int]) -> None:
        self.told.append(("assigned", partitions))

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.told.append(("revoked", partitions))
        self.revoking.set()
        if self.hold is not None:
            await self.hold.wait()


class TestMembership:
    async def test_members_share_the_partitions_and_take_over_from_who_leaves(self, world: World) -> None:
        one, two = world.broker(), world.broker()
        anchor, group = await new_topic(one, partitions=4), ring_name()
        first, second, told = one.membership(group, anchor), two.membership(group, anchor), Ownership()
        await first.start(told)
        assert first.owned == {0, 1, 2, 3}
        await first.confirm()
        await second.start(Ownership())

        async def shared() -> bool:
            return len(first.owned) == 2 and len(second.owned) == 2

        await eventually(shared)
        assert first.owned | second.owned == {0, 1, 2, 3}
        assert told.told[:2] == [("assigned", frozenset({0, 1, 2, 3})), ("revoked", frozenset({0, 1, 2, 3}))]
        await first.confirm()
        await second.confirm()
        await second.leave()

        async def all_back() -> bool:
            return first.owned == {0, 1, 2, 3}

        await eventually(all_back)
        await first.leave()
        await first.leave()
        assert told.told[-1] == ("revoked", frozenset({0, 1, 2, 3}))
        assert first.owned == frozenset()

    async def test_confirm_raises_once_the_group_has_moved_on(self, world: World) -> None:
        one, two = world.broker(), world.broker()
        anchor, group = await new_topic(one, partitions=2), ring_name()
        slow, quick, told = one.membership(group, anchor), two.membership(group, anchor), Ownership()
        told.hold = asyncio.Event()
        await slow.start(told)
        joining = asyncio.create_task(quick.start(Ownership()))
        await told.revoking.wait()
        await slow.confirm()  # the group still waits for it to let go
        await asyncio.wait_for(joining, REBALANCE_TIMEOUT_S + 5)
        assert quick.owned == {0, 1}
        with pytest.raises(OwnershipLost, match=group):
            await slow.confirm()
        told.hold.set()
        await slow.leave()
        await quick.leave()

    async def test_who_owns_nothing_cannot_confirm(self, broker: Broker) -> None:
        anchor, group = await new_topic(broker), ring_name()
        membership = broker.membership(group, anchor)
        with pytest.raises(OwnershipLost):
            await membership.confirm()
        await membership.start(Ownership())
        await membership.leave()
        with pytest.raises(OwnershipLost):
            await membership.confirm()

    async def test_a_static_member_that_comes_back_disturbs_nobody(self, world: World) -> None:
        one, two, again = world.broker(), world.broker(), world.broker()
        anchor, group = await new_topic(one, partitions=2), ring_name()
        first, second, told = (
            one.membership(group, anchor, instance_id="a"),
            two.membership(group, anchor, instance_id="b"),
            Ownership(),
        )
        await first.start(Ownership())
        await second.start(told)

        async def shared() -> bool:
            return len(first.owned) == 1 and len(second.owned) == 1

        await eventually(shared)
        owned, heard = first.owned, len(told.told)
        await first.leave()
        restarted = again.membership(group, anchor, instance_id="a")
        started = time.monotonic()
        await restarted.start(Ownership())
        assert time.monotonic() - started < 1.5
        assert restarted.owned == owned
        await restarted.confirm()
        await second.confirm()
        assert len(told.told) == heard
        await restarted.leave()
        await second.leave()

    async def test_an_anchor_that_does_not_exist_is_named(self, broker: Broker) -> None:
        with pytest.raises(TopicError, match="no-such-anchor"):
            await broker.membership("group", "no-such-anchor").start(Ownership())


class TestAdmin:
    async def test_topics_are_created_once_described_and_deleted(self, broker: Broker) -> None:
        name = ring_name()
        spec = TopicSpec(name, 3, config={"cleanup.policy": "compact", "retention.ms": "-1"})
        assert await broker.admin.create_topics([spec]) == {name}
        assert await broker.admin.create_topics([spec]) == frozenset()
        described = await broker.admin.describe([name, "no-such-topic"])
        assert set(described) == {name}
        assert (described[name].partitions, described[name].replication) == (3, 1)
        assert described[name].config["cleanup.policy"] == "compact"
        assert described[name].config["retention.ms"] == "-1"
        assert (await broker.admin.describe([name], with_config=False))[name].partitions == 3
        assert name in await broker.admin.list_topics()
        await broker.admin.delete_topics([name, "no-such-topic"])
        assert name not in await broker.admin.list_topics()

    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            (TopicSpec("not a name", 1), "illegal|invalid"),
            (TopicSpec("contract-wide", 1, replication=7), "replication"),
        ],
    )
    async def test_a_refused_topic_is_named_with_the_reason(self, broker: Broker, spec: TopicSpec, reason: str) -> None:
        with pytest.raises(TopicError, match=f"'{spec.name}' was refused.*({reason})"):
            await broker.admin.create_topics([spec])

    async def test_offsets_at_a_time(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        place = Partition(topic, 0)
        stamps = []
        async with broker.producer() as producer, broker.reader() as reader:
            for _ in range(3):
                await producer.send(Message(topic, b"k", b"v"))
                await asyncio.sleep(0.02)
            await reader.assign({place: 0})
            stamps = [r.timestamp_ms for r in await take(reader, 3)]
        assert await broker.admin.offsets_at({place: stamps[1]}) == {place: 1}
        assert await broker.admin.offsets_at({place: 0}) == {place: 0}
        assert await broker.admin.offsets_at({place: stamps[2] + 60_000}) == {place: 3}

    async def test_what_does_not_exist_is_named(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer, broker.reader() as reader:
            with pytest.raises(TopicError, match="no-such-topic"):
                await producer.send(Message("no-such-topic", b"k", b"v"))
            with pytest.raises(TopicError, match=rf"partition 7 of topic '{topic}'"):
                await producer.send(Message(topic, b"k", b"v", partition=7))
            with pytest.raises(TopicError, match="no-such-topic"):
                await reader.assign({Partition("no-such-topic", 0): 0})
        with pytest.raises(TopicError, match="no-such-topic"):
            await broker.admin.end_offsets([Partition("no-such-topic", 0)])


class TestLimits:
    async def test_a_record_over_the_limit_is_refused_and_the_others_are_written(self, broker: Broker) -> None:
        topic = await new_topic(broker, max_message_bytes="10000")
        async with broker.producer() as producer:
            with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes"):
                await producer.send(Message(topic, b"k", b"x" * 20_000))
            with pytest.raises(RecordTooLarge, match="reference"):
                await producer.send(Message(topic, b"k", b"x" * 5_000_000))
            await producer.send(Message(topic, b"k", b"small"))
        assert await values(broker, topic) == [b"small"]

    async def test_an_address_where_nobody_listens_is_named(self, world: World) -> None:
        nowhere = world.unreachable()
        if nowhere is None:
            pytest.skip("the simulated log has no address")
        for attempt in (nowhere.connect, nowhere.ring("r").start, nowhere.producer().__aenter__):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 .*STREAMS_KAFKA__BOOTSTRAP_SERVERS"):
                await attempt()
            assert time.monotonic() - started < 5

    async def test_connect_says_nothing_when_the_log_answers(self, broker: Broker) -> None:
        await broker.connect()
        assert broker.address


class TestTable:
    async def test_the_latest_value_of_each_key_wins_whatever_was_compacted(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2, cleanup_policy="compact")
        ring = broker.ring(ring_name())
        await ring.start()
        for version in range(5):
            await ring.transact([Message(topic, b"key-%d" % key, b"%d" % version) for key in range(10)])
        await ring.transact([Message(topic, b"key-0", None)])
        await ring.close()
        latest: dict[bytes | None, bytes | None] = {}
        async for batch in read_to_end(broker, all_of(topic, 2)):
            for record in batch:
                latest[record.key] = record.value
        assert latest == {b"key-0": None} | {b"key-%d" % key: b"4" for key in range(1, 10)}

    async def test_reading_to_the_end_of_nothing_ends(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2)
        assert await values(broker, topic, 2) == []
        assert [batch async for batch in read_to_end(broker, [])] == []

    async def test_reading_to_the_end_stops_at_the_end_it_found(self, broker: Broker) -> None:
        topic = await new_topic(broker)
        async with broker.producer() as producer:
            await producer.send(*(Message(topic, b"k", b"%d" % n) for n in range(10)))
            found = []
            async for batch in read_to_end(broker, all_of(topic), max_records=3):
                found += [r.value for r in batch]
                await producer.send(Message(topic, b"k", b"later"))
        assert found == [b"%d" % n for n in range(10)]

    async def test_a_table_loads_and_then_follows(self, broker: Broker) -> None:
        topic = await new_topic(broker, partitions=2, cleanup_policy="compact")
        latest: dict[bytes | None, bytes | None] = {}
        changed = asyncio.Event()

        def keep(record: LogRecord) -> None:
            latest[record.key] = record.value
            changed.set()

        async with broker.producer() as producer:
            await producer.send(*(Message(topic, b"key-%d" % n, b"old") for n in range(10)))
            table = Table(broker, all_of(topic, 2))
            table.on_record(keep)
            async with table:
                await table.wait_loaded()
                assert table.loaded
                assert latest == {b"key-%d" % n: b"old" for n in range(10)}
                changed.clear()
                await producer.send(Message(topic, b"key-3", b"new"))
                await asyncio.wait_for(changed.wait(), 2)
                assert latest[b"key-3"] == b"new"

    async def test_an_error_in_a_callback_ends_the_tables_context(self, broker: Broker) -> None:
        topic = await new_topic(broker)

        def refuse(record: LogRecord) -> None:
            raise LookupError(record.value)

        async with broker.producer() as producer:
            await producer.send(Message(topic, b"k", b"v"))
        table = Table(broker, all_of(topic))
        table.on_record(refuse)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with table:
                await asyncio.sleep(5)
        assert caught.group_contains(LookupError)
