"""What the store must have at least: per record, bounded in time and number."""

from __future__ import annotations

import pytest

from streams.shards import late_writes
from streams.shards.late_writes import LATE_S, LateWrites


def test_each_record_is_known_by_its_newest_write() -> None:
    late = LateWrites()
    late.note("a/1", {"x": 1, "y": 2}, 10.0)
    late.note("a/1", {"y": 1, "z": 5}, 20.0)
    assert late.of("a/1", 20.0) == {"x": 1, "y": 2, "z": 5}
    assert late.of("a/2", 20.0) == {}
    late.forget("a/1")
    assert late.of("a/1", 20.0) == {}


def test_what_is_too_long_ago_is_not_known() -> None:
    late = LateWrites()
    late.note("a/1", {"x": 1}, 0.0)
    assert late.of("a/1", LATE_S) == {"x": 1}
    assert late.of("a/1", LATE_S + 1) == {}


def test_records_are_counted_over_all_owners_and_the_oldest_owners_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_writes, "MAX_RECORDS", 5)
    late = LateWrites()
    late.note("a/1", {"x": 1, "y": 1}, 0.0)
    late.note("a/2", {"x": 1, "y": 1}, 1.0)
    late.note("a/1", {"z": 1}, 2.0)  # the oldest one no longer
    late.note("a/3", {"x": 1}, 3.0)
    assert [len(late.of(owner, 3.0)) for owner in ("a/1", "a/2", "a/3")] == [3, 0, 1]
    late.note("a/4", dict.fromkeys("abcdef", 1), 4.0)
    assert [len(late.of(owner, 4.0)) for owner in ("a/1", "a/3", "a/4")] == [0, 0, 0]
