"""Markers of finished invocations: what is remembered, in which order it is forgotten."""

from __future__ import annotations

from streams.records import encode
from streams.records.journal import Marker
from streams.shards.markers import Markers


def marker(finished_at_ms: int, result: bytes = b"result") -> bytes:
    return encode(Marker(b"digest", result, finished_at_ms))


def remembering(*, window_s: float = 1.0, count: int = 100, max_bytes: int = 10_000) -> Markers:
    return Markers(window_s=window_s, count=count, max_bytes=max_bytes)


def test_what_is_beyond_the_window_is_forgotten_oldest_first() -> None:
    markers = remembering()
    for number in range(3):
        markers.put(f"a/{number}", marker(number * 100))
    assert markers.next_expiry_s == 1.0
    assert list(markers.expire(1_150)) == ["a/0", "a/1"]
    assert markers.next_expiry_s == 1.2
    assert "a/1" not in markers
    assert (found := markers.get("a/2")) is not None
    assert found.finished_at_ms == 200


def test_an_invocation_that_finishes_again_is_as_young_as_its_last_end() -> None:
    markers = remembering()
    markers.put("a/0", marker(0))
    assert markers.next_expiry_s == 1.0
    markers.put("a/0", marker(5_000))
    assert markers.next_expiry_s == 6.0
    assert list(markers.expire(5_500)) == []


def test_one_that_is_emptied_stays_as_old_as_it_was() -> None:
    markers = remembering()
    markers.put("a/0", marker(0))
    markers.put("a/1", marker(500))
    markers.replace("a/0", marker(0, b""))
    assert list(markers.expire(1_200)) == ["a/0"]


def test_count_and_bytes_are_bounds() -> None:
    few = remembering(count=2)
    small = remembering(max_bytes=3 * len(marker(0)) - 1)
    for markers in (few, small):
        for number in range(3):
            markers.put(f"a/{number}", marker(0))
        assert list(markers.expire(0)) == ["a/0"]
        assert len(markers) == 2


def test_nothing_expires_where_nothing_is() -> None:
    assert remembering().next_expiry_s == float("inf")
