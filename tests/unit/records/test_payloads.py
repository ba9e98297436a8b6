"""Payloads sealed at rest: nothing readable is written, everything is read back, a missing key is told."""

import base64
import os
from dataclasses import fields

import pytest

from streams.encryption import EncryptionSettings, protect_payloads
from streams.errors import CodecError, ConfigurationError, SettingsError, UnknownSchema
from streams.records import decode, encode, encode_read
from streams.records.codec import RECORDS, open_value, seal_value
from streams.records.invocations import Invocation, Result
from streams.records.payloads import PAYLOADS
from streams.records.state import StateDelta
from streams.records.steps import TokenChunk

SECRET = b'"the customer is Ada"'


def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


OLD, NEW = key(), key()


@pytest.fixture(autouse=True)
def in_the_clear_again():
    yield
    protect_payloads(EncryptionSettings())


def delta(value=SECRET):
    return StateDelta("customer/ada", "name", value, 1, 2, "customer/ada", 0)


@pytest.mark.parametrize(
    "record",
    [
        delta(),
        delta(None),
        Invocation("a", "b", "c", SECRET, 0, 1),
        Result("a", "b", "c", "succeeded", SECRET),
        TokenChunk("a/b/c", 0, 1, 0, SECRET.decode()),
    ],
)
def test_a_sealed_record_shows_nothing_and_comes_back_as_it_was(record):
    plain = encode(record)
    protect_payloads(EncryptionSettings(keys={"k": NEW}))
    sealed = encode(record)
    assert b"Ada" not in sealed
    assert decode(sealed) == record
    assert decode(plain) == record
    assert encode(record) != sealed or b"Ada" not in plain


def test_what_was_read_in_the_clear_is_sealed_where_it_is_written_again():
    invocation = Invocation("a", "b", "c", SECRET, 0, 1)
    clear = encode(invocation)
    assert encode_read(invocation, clear) is clear
    assert encode_read(invocation, b"") == clear
    assert encode_read(invocation, b"\xc3\x01of-old--" + clear[10:]) == clear
    protect_payloads(EncryptionSettings(keys={"k": NEW}))
    assert b"Ada" not in encode_read(invocation, clear)


def test_every_field_that_carries_bytes_of_users_is_sealed():
    known = {"input_digest", "bits", "key"}  # digests, filters, topic keys
    nested = {
        "result",
        "invocation",
        "outcome",
        "record",
        "status",
    }  # encoded records, sealed themselves; a breaker's note
    for record in RECORDS:
        for each in fields(record):
            if "bytes" in str(each.type) and "tuple" not in str(each.type):
                covered = each.name in (*PAYLOADS.get(record, ()), *known, *nested)
                assert covered or record.__name__ in ("DeadLetter", "KeptStep"), f"{record.__name__}.{each.name}"


def test_keys_are_exchanged_without_a_pause():
    protect_payloads(EncryptionSettings(keys={"old": OLD}))
    written = encode(delta())
    protect_payloads(EncryptionSettings(keys={"old": OLD, "new": NEW}))
    assert decode(written) == delta()
    assert b"new" in encode(delta())
    protect_payloads(EncryptionSettings(keys={"old": OLD, "new": NEW}, current="old"))
    assert b"new" not in encode(delta())


def test_a_key_that_is_not_there_is_named_and_waited_for():
    protect_payloads(EncryptionSettings(keys={"old": OLD}))
    written = encode(delta())
    protect_payloads(EncryptionSettings(keys={"new": NEW}))
    with pytest.raises(UnknownSchema, match="sealed with key 'old', which this process does not have"):
        decode(written)


def test_what_was_changed_or_moved_to_another_field_is_refused():
    protect_payloads(EncryptionSettings(keys={"k": NEW}))
    written = bytearray(encode(delta()))
    written[written.index(b"sealed") + 40] ^= 1
    with pytest.raises(CodecError, match="was changed, or belongs to another"):
        decode(bytes(written))
    with pytest.raises(CodecError, match="belongs to another"):
        open_value(seal_value(SECRET, "state"), "invocations")


def test_without_keys_nothing_is_sealed():
    assert seal_value(SECRET, "state") == SECRET
    assert b"Ada" in encode(delta())


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"keys": {"k": "short"}}, SettingsError, "key 'k' of STREAMS_ENCRYPTION__KEYS is not 32 bytes in base64"),
        ({"keys": {"k": NEW}, "current": "x"}, SettingsError, "current is 'x', which is not among the keys k"),
        ({"keys": {"k": NEW}, "codec": "nowhere.at:all"}, ConfigurationError, "needs nowhere, which is not installed"),
        ({"keys": {"k": NEW}, "codec": "os:nothing"}, ConfigurationError, "is not aes-gcm or module:factory"),
    ],
)
def test_wrong_settings_say_what_is_wrong_and_never_the_key(settings, error, said):
    with pytest.raises(error, match=said) as raised:
        protect_payloads(EncryptionSettings(**settings))
    assert NEW not in str(raised.value)
