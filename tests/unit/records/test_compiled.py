"""Encoders and decoders written out field by field do what fastavro does."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import CodecError
from streams.records import RECORDS, codec, encode
from streams.records.journal import Cursor, Marker
from streams.records.signals import Cancel
from tests.unit.records.any_record import any_record


@given(any_record())
def test_the_bytes_are_those_of_fastavro(record: object) -> None:
    kind = type(record)
    expected = codec._ENCODERS[kind](record)
    assert codec._FAST_ENCODERS[kind](record) == expected
    assert codec._FAST_DECODERS[expected[:10]](expected) == record


@given(any_record(), st.data())
def test_what_is_read_of_damaged_bytes_is_what_fastavro_reads(record: object, data: st.DataObject) -> None:
    corrupt = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(corrupt) - 1))
        corrupt[place] ^= data.draw(st.integers(1, 255))
    damaged = bytes(corrupt)
    fast = codec._FAST_DECODERS.get(damaged[:10])
    if fast is None:
        return
    try:
        found = fast(damaged)
    except Exception:
        return  # fastavro's to judge
    assert repr(found) == repr(codec._DECODERS[damaged[2:10]](damaged))


def test_every_record_has_a_pair() -> None:
    assert set(codec._FAST_ENCODERS) == set(RECORDS)
    assert len(codec._FAST_DECODERS) == len(RECORDS)


def test_a_decoded_record_is_frozen() -> None:
    cancel = codec.decode_as(Cancel, encode(Cancel("a/k/1", "why", "me", 1)))
    with pytest.raises(AttributeError):
        cancel.reason = "other"  # type: ignore[misc]
    assert hash(cancel) == hash(Cancel("a/k/1", "why", "me", 1))


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, "1"])
def test_what_is_no_long_is_refused(number: object) -> None:
    with pytest.raises(CodecError, match="Marker cannot be encoded"):
        encode(Marker(b"", b"", number))  # type: ignore[arg-type]


def test_what_is_remembered_is_bounded() -> None:
    for number in range(20_000):
        encode(Cancel(f"a/k/{number}", "why", "me", 1_700_000_000_000 + number))
    from streams.records import compiled

    assert len(compiled._texts) <= compiled.MAX_REMEMBERED
    assert len(compiled._longs) <= compiled.MAX_REMEMBERED


def test_a_record_is_made_as_its_dataclass_says() -> None:
    first, second = Cursor(1, 2, accepted=3), Cursor(1, 2, 3)
    assert first == second
    assert first.positions is not second.positions
    assert dataclasses.replace(first, restarts=2) == Cursor(1, 2, 3, restarts=2)
    assert repr(first).startswith("Cursor(epoch=1, sequence=2, accepted=3, positions={}")
    with pytest.raises(TypeError, match="accepted"):
        Cursor(1, 2)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.epoch = 2  # type: ignore[misc]
