"""Records to bytes and back, and what happens to bytes that are no record."""

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.errors import CodecError, UnknownSchema
from streams.records import RECORDS, decode, decode_as, encode
from streams.records.codec import MARKER
from streams.records.invocations import Result
from streams.records.journal import JournalEntry
from streams.records.json import result_from_json, result_to_json
from streams.records.signals import Cancel, Signal
from tests.unit.records.any_record import any_record, instances

CANCEL = Cancel("a/k/1", "why", "me", 1)

unhurried = settings(deadline=None)
"""A busy machine is no failure."""


def outcome(read: Callable[[bytes], object], data: bytes) -> str:
    """Return how reading ended: anything but a record or a `CodecError` fails the test."""
    try:
        read(data)
    except CodecError:
        return "refused"
    return "read"


@unhurried
@given(any_record())
def test_what_is_encoded_is_decoded(record: object) -> None:
    assert decode(encode(record)) == record
    assert decode_as(type(record), encode(record)) == record


def test_every_record_has_a_schema_of_its_own() -> None:
    assert len({record.__name__ for record in RECORDS}) == len(RECORDS)


@unhurried
@given(st.binary(max_size=64))
@example(b"")
@example(MARKER)
@example(MARKER + bytes(8))
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    assert outcome(decode, data) == "refused"


@unhurried
@given(any_record(), st.data())
def test_a_flipped_byte_gives_a_record_or_a_refusal(record: object, data: st.DataObject) -> None:
    corrupt = bytearray(encode(record))
    place = data.draw(st.integers(0, len(corrupt) - 1))
    corrupt[place] ^= data.draw(st.integers(1, 255))
    outcome(decode, bytes(corrupt))


@unhurried
@given(any_record(), st.binary(min_size=1, max_size=40))
def test_a_body_of_anything_gives_a_record_or_a_refusal(record: object, body: bytes) -> None:
    outcome(decode, encode(record)[:10] + body)


@unhurried
@given(any_record(), st.data())
def test_a_record_that_is_cut_short_is_refused(record: object, data: st.DataObject) -> None:
    whole = encode(record)
    assert outcome(decode, whole[: data.draw(st.integers(0, len(whole) - 1))]) == "refused"


def test_bytes_after_a_record_are_refused() -> None:
    with pytest.raises(CodecError, match="1 bytes follow the record"):
        decode(encode(CANCEL) + b"\0")


def test_an_unknown_fingerprint_says_that_a_deploy_is_needed() -> None:
    with pytest.raises(UnknownSchema, match=r"0102030405060708 is not known.*deploy"):
        decode(MARKER + bytes(range(1, 9)) + b"body")


def test_another_record_than_the_one_expected_is_refused() -> None:
    with pytest.raises(CodecError, match="expected Signal, got Cancel"):
        decode_as(Signal, encode(CANCEL))


def test_a_field_that_does_not_fit_is_refused_when_it_is_written() -> None:
    with pytest.raises(CodecError, match="Cancel cannot be encoded"):
        encode(dataclasses.replace(CANCEL, sent_at_ms="soon"))  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="is not a record"):
        encode(object())


@pytest.mark.parametrize("snapshot", [None, (), (b"a",), (b"a", b"b")])
def test_a_tuple_that_may_be_none_is_a_list_of_any_length(snapshot: tuple[bytes, ...] | None) -> None:
    entry = JournalEntry(b"", 0, "running", "1", 1, snapshot=snapshot)
    assert decode(encode(entry)) == entry


def test_an_unset_value_and_an_empty_one_are_told_apart() -> None:
    unset = Result("a", "k", "1", "succeeded")
    assert decode_as(Result, encode(unset)).value is None
    assert decode_as(Result, encode(dataclasses.replace(unset, value=b""))).value == b""


@unhurried
@given(instances(Result), st.sampled_from([b"null", b"1", b'{"a":[1,2]}', b'"x"']))
def test_a_result_survives_json(result: Result, value: bytes) -> None:
    finite = dataclasses.replace(result, value=value, cost=0.5, retry_after_s=1.0)
    back = result_from_json(result_to_json(finite))
    assert back == dataclasses.replace(finite, value=None if value == b"null" else value)


@unhurried
@given(st.one_of(st.binary(max_size=40), st.sampled_from([b"[]", b"null", b"{}", b'{"id":1,"value":2}'])))
def test_json_that_is_no_result_is_refused(data: bytes) -> None:
    assert outcome(result_from_json, data) == "refused"
