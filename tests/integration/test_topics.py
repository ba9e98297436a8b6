"""Topics, results and dead letters on a real Kafka, from the command line and below it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import orjson
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Called

from streams.broker import Broker, LogRecord, Message, Partition, TopicSpec
from streams.broker.connect import open_broker
from streams.broker.dead_letters import dead_letter_message
from streams.broker.kafka import KafkaSettings
from streams.broker.topics import create_namespace, differences, ensure_partitions
from streams.cli import app
from streams.errors import CodecError, TopicError
from streams.records import encode, headers
from streams.records.invocations import Result
from streams.records.json import result_to_json
from streams.records.topics import Catalogue
from streams.shards.role import encode_result

T = TypeVar("T")

Ask = Callable[[Callable[[Broker], Awaitable[T]]], T]


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(f"topics-{uuid.uuid4().hex[:8]}", partitions=2, lanes={"tool-calls": ["slow"]})


@pytest.fixture
def on(kafka: str, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:  # type: ignore[type-arg]
    """Return what runs a coroutine on the broker; the command line is pointed to the same namespace."""
    monkeypatch.setenv("STREAMS_KAFKA__BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("STREAMS_NAMESPACE", catalogue.namespace)
    monkeypatch.setenv("STREAMS_PARTITIONS", "2")
    monkeypatch.setenv("COLUMNS", "200")

    async def connected(ask: Callable[[Broker], Awaitable[T]]) -> T:
        broker = open_broker(KafkaSettings(bootstrap_servers=kafka, max_request_bytes=4_000_000))
        try:
            return await ask(broker)
        finally:
            await broker.close()

    def run(ask: Callable[[Broker], Awaitable[T]]) -> T:
        return asyncio.run(connected(ask))

    async def clean(broker: Broker) -> None:
        names = await broker.admin.list_topics()
        await broker.admin.delete_topics([name for name in names if name.startswith(f"{catalogue.namespace}.")])

    yield run
    run(clean)


def call(*arguments: str) -> Called:
    return CliRunner().invoke(app, arguments)


def send(*messages: Message) -> Callable[[Broker], Awaitable[tuple[int, ...]]]:
    async def write(broker: Broker) -> tuple[int, ...]:
        async with broker.producer() as producer:
            return await producer.send(*messages)

    return write


def create(catalogue: Catalogue) -> Callable[[Broker], Awaitable[tuple[str, ...]]]:
    return lambda broker: create_namespace(broker.admin, catalogue, 1)


def test_what_is_created_is_as_the_catalogue_wants_it(on: Ask, catalogue: Catalogue) -> None:  # type: ignore[type-arg]
    async def lifecycle(broker: Broker) -> None:
        with pytest.raises(TopicError, match="are missing"):
            await ensure_partitions(broker.admin, catalogue)
        created = await create_namespace(broker.admin, catalogue, 1)
        assert set(created) == {plan.name for plan in catalogue.topics()}
        assert await create_namespace(broker.admin, catalogue, 1) == ()
        await ensure_partitions(broker.admin, catalogue)
        assert await differences(broker.admin, catalogue, 1) == []

    on(lifecycle)


def test_what_differs_on_the_broker_is_named(on: Ask, catalogue: Catalogue) -> None:  # type: ignore[type-arg]
    async def differ(broker: Broker) -> list[str]:
        journal = {"cleanup.policy": "compact", "max.message.bytes": "2262144"}
        await broker.admin.create_topics([TopicSpec(catalogue.name("journal"), 2, 1, journal)])
        await create_namespace(broker.admin, catalogue, 1)
        return [f"{d.topic} {d.aspect}" for d in await differences(broker.admin, catalogue, 1)]

    name = catalogue.name("journal")
    assert on(differ) == [
        f"{name} segment.bytes", f"{name} min.cleanable.dirty.ratio", f"{name} max.compaction.lag.ms",
        f"{name} delete.retention.ms",
    ]  # fmt: skip


def test_a_namespace_of_other_partitions_is_refused(on: Ask, catalogue: Catalogue) -> None:  # type: ignore[type-arg]
    on(create(catalogue))
    with pytest.raises(TopicError, match=r"invocations.*2 partitions and not 3"):
        on(lambda broker: ensure_partitions(broker.admin, replace(catalogue, partitions=3)))


def test_topics_are_created_listed_and_checked_from_the_command_line(on: Ask, catalogue: Catalogue) -> None:  # type: ignore[type-arg]
    before = call("topics", "check")
    assert before.exit_code == 1
    assert f"{catalogue.name('journal')} is missing" in before.stdout
    created = call("topics", "create")
    assert created.exit_code == 0
    assert f"created {catalogue.name('journal')}" in created.stdout
    assert "2 shards for good" in created.stderr
    assert call("topics", "check").exit_code == 0
    rows = {row["topic"]: row for row in orjson.loads(call("topics", "list", "--json").stdout)}
    assert rows[catalogue.name("invocations")]["partitions"] == 2
    assert catalogue.name("dead-letters") in call("topics", "list").stdout
    wrong = call("topics", "create", "--partitions", "5")
    assert wrong.exit_code == 1
    assert "2 partitions and not 5" in wrong.stderr


def test_results_are_printed_in_both_encodings(on: Ask, catalogue: Catalogue) -> None:  # type: ignore[type-arg]
    on(create(catalogue))
    topic = catalogue.name("results")
    first = Result("greet", "bob", "1", "succeeded", value=b'"hello"', finished_at_ms=1)
    second = Result("greet", "ann", "2", "failed", error_type="Boom", error_message="why", finished_at_ms=2)
    messages = []
    for number, (result, as_json) in enumerate([(first, False), (second, True)]):
        value, kind = encode_result(result, as_json=as_json)
        head = headers.public("result", record_id=result.id, source="test", content_type=kind)
        messages.append(Message(topic, b"k", value, number, head))
    on(send(*messages, Message(topic, b"k", b"garbage", 0)))
    said = call("results", "--json")
    assert {orjson.loads(line)["id"] for line in said.stdout.splitlines()} == {first.id, second.id}
    assert said.stdout.splitlines()[0].encode() in (result_to_json(first), result_to_json(second))
    assert "garbage" not in said.stdout
    assert "7 bytes" in said.stderr
    people = call("results")
    assert "greet/bob/1" in people.stdout
    assert "Boom: why" in people.stdout
    assert len(call("results", "--json", "--max", "1").stdout.splitlines()) == 1
    follow = call("results", "--follow", "--from-beginning", "--json", "-n", "2")
    assert len(follow.stdout.splitlines()) == 2


def test_results_of_an_aborted_transaction_are_not_printed(on: Ask, catalogue: Catalogue) -> None:  # type: ignore[type-arg]
    on(create(catalogue))
    topic = catalogue.name("results")

    async def abort_then_commit(broker: Broker) -> None:
        lost, kept = (Message(topic, b"k", encode(Result("a", "k", word, "succeeded")), 0) for word in ("lost", "kept"))
        too_large = Message(topic, b"k", b"x" * 3_000_000, 0)
        ring = broker.ring(f"{catalogue.namespace}-test")
        await ring.start()
        with pytest.raises(Exception, match=r"exceeds|large"):
            await ring.transact([lost, too_large])
        await ring.close()
        again = broker.ring(f"{catalogue.namespace}-test")
        await again.start()
        await again.transact([kept])
        await again.close()

    on(abort_then_commit)
    ids = [orjson.loads(line)["id"] for line in call("results", "--json").stdout.splitlines()]
    assert ids == ["a/k/kept"]


def test_a_dead_letter_is_listed_shown_and_sent_again_as_it_was(on: Ask, catalogue: Catalogue) -> None:  # type: ignore[type-arg]
    on(create(catalogue))
    source, letters = catalogue.name("invocations"), catalogue.name("dead-letters")
    aside = LogRecord(source, 1, 41, 1_000, b"greet/bob", b"\0garbage\xff", (("traceparent", b"00-1"), ("x", b"\xff")))
    moved = aside._replace(topic=catalogue.name("state-deltas"))
    on(send(*(dead_letter_message(letters, record, CodecError("no record"), "shard 1") for record in (aside, moved))))

    listed = orjson.loads(call("dead-letters", "list", "--topic", "invocations", "--json").stdout)
    assert [(letter["topic"], letter["offset"], letter["reason"]) for letter in listed] == [(source, 41, "no record")]
    name = listed[0]["letter"]
    assert "invocations[1]@41" in call("dead-letters", "list").stdout
    shown = orjson.loads(call("dead-letters", "show", name, "--json").stdout)
    assert shown["key"] == "greet/bob"
    assert shown["headers"]["x"] == "0xff"
    assert shown["content"] == f"0x{aside.value.hex()}" if aside.value else False

    dry = call("dead-letters", "replay", name, "--dry-run")
    assert f"{name}: would go to {source}[1]" in dry.stdout
    assert on(lambda broker: broker.admin.end_offsets([Partition(source, 1)])) == {Partition(source, 1): 0}

    replayed = call("dead-letters", "replay", "--all")
    assert replayed.exit_code == 1, "the state delta must not go back"
    assert f"{name}: was sent again" in replayed.stdout
    assert "an old value must not come after a newer one" in replayed.stderr

    async def read(broker: Broker) -> list[LogRecord]:
        async with broker.reader() as reader:
            await reader.assign({Partition(source, 1): 0})
            return (await reader.poll(timeout_s=5))[Partition(source, 1)]

    (again,) = on(read)
    assert (again.key, again.value, again.headers) == (aside.key, aside.value, aside.headers)


def test_a_namespace_that_does_not_exist_is_named(on: Ask) -> None:  # type: ignore[type-arg]
    said = call("results", "--namespace", "nobody")
    assert said.exit_code == 1
    assert "topic nobody.results does not exist" in said.stderr
