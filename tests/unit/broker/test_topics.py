"""What a namespace needs against what the simulated log has."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import TypeVar

import pytest

from streams.broker import Admin, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.topics import (
    Difference,
    create_namespace,
    differences,
    ensure_partitions,
    partitions_notice,
    specs,
)
from streams.errors import TopicError
from streams.records.topics import Catalogue
from streams.testing.virtual_time import run

T = TypeVar("T")

PAYMENTS = Catalogue("payments", partitions=4, lanes={"tool-calls": ["slow-crm"]})


def on(specs: list[TopicSpec], ask: Callable[[Admin], Awaitable[T]]) -> T:
    """Return what *ask* says of a log that has the topics in *specs*."""

    async def main() -> T:
        log = SimulatedLog(Random(0))
        log.create_topics(specs)
        return await ask(SimulatedBroker(log).admin)

    return run(main())


def changed(topic: str, **changes: object) -> list[TopicSpec]:
    """Return the topics as they should be, but for one that differs."""
    name = PAYMENTS.name(topic)
    return [replace(spec, **changes) if spec.name == name else spec for spec in specs(PAYMENTS, 1)]  # type: ignore[arg-type]


def config(topic: str, setting: str, value: str) -> list[TopicSpec]:
    (spec,) = (spec for spec in specs(PAYMENTS, 1) if spec.name == PAYMENTS.name(topic))
    return changed(topic, config={**spec.config, setting: value})


def test_creating_twice_creates_what_is_missing() -> None:
    async def twice(admin: Admin) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return await create_namespace(admin, PAYMENTS, 1), await create_namespace(admin, PAYMENTS, 1)

    first, second = on(specs(PAYMENTS, 1)[1:], twice)
    assert first == ("payments.invocations",)
    assert second == ()


def test_what_was_created_has_no_differences() -> None:
    async def create(admin: Admin) -> list[Difference]:
        await create_namespace(admin, PAYMENTS, 1)
        await ensure_partitions(admin, PAYMENTS)
        return await differences(admin, PAYMENTS, 1)

    assert on([], create) == []


def test_lanes_are_topics_too() -> None:
    assert "payments.tool-calls.slow-crm" in on([], lambda admin: create_namespace(admin, PAYMENTS, 1))


def test_a_cluster_wants_two_replicas_in_sync() -> None:
    assert {spec.config.get("min.insync.replicas") for spec in specs(PAYMENTS, 3)} == {"2"}
    assert {spec.config.get("min.insync.replicas") for spec in specs(PAYMENTS, 1)} == {None}


@pytest.mark.parametrize(
    ("there", "difference"),
    [
        (specs(PAYMENTS, 1)[1:], Difference("payments.invocations", "missing")),
        (changed("signals", partitions=8), Difference("payments.signals", "partitions", "4", "8")),
        (
            config("journal", "cleanup.policy", "delete"),
            Difference("payments.journal", "cleanup.policy", "compact", "delete"),
        ),
        (
            config("invocations", "retention.ms", "604800000"),
            Difference("payments.invocations", "retention.ms", "-1", "604800000"),
        ),
        (
            config("results", "max.message.bytes", "1000012"),
            Difference("payments.results", "max.message.bytes", "2262144", "1000012"),
        ),
    ],
)
def test_every_difference_is_named(there: list[TopicSpec], difference: Difference) -> None:
    assert on(there, lambda admin: differences(admin, PAYMENTS, 1)) == [difference]


def test_numbers_are_compared_as_numbers() -> None:
    there = config("journal", "min.cleanable.dirty.ratio", "0.10")
    assert on(there, lambda admin: differences(admin, PAYMENTS, 1)) == []


def test_a_single_node_is_not_asked_for_replicas() -> None:
    assert on(specs(PAYMENTS, 1), lambda admin: differences(admin, PAYMENTS, 1)) == []
    found = on(specs(PAYMENTS, 1), lambda admin: differences(admin, PAYMENTS, 3))
    assert {difference.aspect for difference in found} == {"replication", "min.insync.replicas"}
    assert len(found) == 2 * len(specs(PAYMENTS, 1))


def test_a_difference_says_what_to_do() -> None:
    difference = Difference("payments.journal", "cleanup.policy", "compact", "delete")
    assert str(difference) == "payments.journal: cleanup.policy is delete, should be compact"
    assert "--add-config cleanup.policy=compact" in difference.way_out
    assert "STREAMS_PARTITIONS" in Difference("payments.inbox", "partitions", "4", "8").way_out


def test_a_role_does_not_start_on_other_partitions() -> None:
    with pytest.raises(TopicError, match=r"payments\.signals: 8 partitions and not 4.*STREAMS_PARTITIONS"):
        on(changed("signals", partitions=8), lambda admin: ensure_partitions(admin, PAYMENTS))


def test_a_role_does_not_start_without_its_topics() -> None:
    with pytest.raises(TopicError, match=r"payments\.invocations is missing.*streams topics create"):
        on(specs(PAYMENTS, 1)[1:], lambda admin: ensure_partitions(admin, PAYMENTS))


def test_nothing_is_created_beside_topics_with_other_partitions() -> None:
    async def create(admin: Admin) -> frozenset[str]:
        with pytest.raises(TopicError, match="4 partitions and not 6"):
            await create_namespace(admin, replace(PAYMENTS, partitions=6), 1)
        return await admin.list_topics()

    assert on(specs(PAYMENTS, 1)[:1], create) == {"payments.invocations"}


def test_whoever_creates_is_told_that_partitions_are_for_good() -> None:
    assert "4 shards for good" in partitions_notice(PAYMENTS)
