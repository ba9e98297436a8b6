"""What people read about model pools, and which changes to their limits are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from streams.broker.port import TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.cli.llm import _away, _change, _keys
from streams.cli.target import Target
from streams.records.control import Limit
from streams.records.topics import Catalogue
from streams.settings import Settings
from streams.testing.virtual_time import run

CATALOGUE = Catalogue("shop")


class Simulated(Target):
    """An application without any process, on a simulated log."""

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[SimulatedBroker]:
        log = SimulatedLog(Random(1))
        log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in CATALOGUE.topics()])
        yield SimulatedBroker(log)


@pytest.mark.parametrize(
    ("subject", "changes", "said"),
    [
        ("fst", {"concurrency": 3}, "concurrency 3 (no dispatcher reports, so"),
        ("fst", {"tokens_per_minute": 30_000_000.0}, "tokens_per_minute 30,000,000 (no"),
        ("tenant:acme", {"budget_tokens": 9}, "budget_tokens 9"),
    ],
)
def test_a_change_that_could_not_be_checked_says_so(subject: str, changes: dict[str, Any], said: str) -> None:
    target = Simulated(Settings(), None, CATALOGUE)
    told = run(_change(target, subject, Limit(subject, "ana", "incident 7", 1, **changes)), max_time_s=60)
    assert told.startswith(said)


def key_report(**fields: Any) -> dict[str, Any]:
    return {"key_name": "fast/1", "buckets": [], "running": 0, "concurrency": 2, "cools_for_s": 0.0} | fields


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"cools_for_s": 3.0}, "[red]cools for 3.0 s[/]"),
        ({"out_for_s": 291.0}, "[red]not accepted, tried again in 4 min 51 s[/]"),
    ],
)
def test_a_key_that_is_not_used_says_why(fields: dict[str, Any], said: str) -> None:
    assert _away(key_report(**fields)) == said


@pytest.mark.parametrize(("concurrency", "calls"), [(2, "0/2"), (0, "0/0"), (None, "0/-")])
def test_a_part_without_a_place_is_not_one_without_a_limit(concurrency: int | None, calls: str) -> None:
    table = _keys([{"dispatcher": "llm-1", "keys": [key_report(concurrency=concurrency)]}], several=False)
    assert list(table.columns[1].cells) == [calls]
