import json

from streams.broker.port import LogRecord, Partition
from streams.memory.decode import Batch, decode_batch
from streams.records import encode
from streams.records.invocations import Result
from streams.records.state import StateDelta

STATES, RESULTS = Partition("ns.state-deltas", 0), Partition("ns.results", 0)
UNKNOWN_SCHEMA = b"\xc3\x01" + b"\0" * 8 + b"body"
JSON = (("content-type", b"application/json"),)


def delta(sequence: int) -> StateDelta:
    return StateDelta("a/1", "note", b"1", 1, sequence, "a/1", 0)


def decoded(partition: Partition, *values: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()) -> Batch:
    read = [LogRecord(*partition, n, 0, b"key", value, headers) for n, value in enumerate(values)]
    return decode_batch({partition: read}, states=STATES.topic, results=RESULTS.topic)


def test_tombstones_only_mean_no_longer_kept_in_the_log():
    batch = decoded(STATES, encode(delta(1)), None)
    assert [row.record for row in batch.states] == [delta(1)]
    assert batch.refused == []


def test_corrupt_bytes_and_another_record_are_refused_with_their_origin():
    batch = decoded(STATES, b"junk", encode(delta(2)), encode(Result("a", "1", "k", "failed")))
    assert [(each.source.offset, each.error_type) for each in batch.refused] == [(0, "CodecError"), (2, "CodecError")]
    assert [row.record for row in batch.states] == [delta(2)]


def test_an_unknown_schema_holds_the_partition_at_that_record():
    batch = decoded(STATES, encode(delta(1)), UNKNOWN_SCHEMA, encode(delta(3)))
    assert [row.record for row in batch.states] == [delta(1)]
    assert batch.held[STATES][0] == 1
    assert "deploy the version that wrote it" in batch.held[STATES][1]


def test_only_what_says_how_an_invocation_ended_is_history():
    ended = Result("a", "1", "k", "succeeded", b"7")
    others = [
        Result("a", "1", "k", "succeeded", b"7", repeated=True),
        Result("a", "1", "k", "deferred", retry_after_s=5),
        Result("a", "1", "k", "failed", error_type="Conflict"),
    ]
    batch = decoded(RESULTS, *[encode(result) for result in (ended, *others)])
    assert [row.record for row in batch.results] == [ended]


def test_json_results_are_read_with_their_value_nested():
    fields = {"agent": "a", "key": "1", "idempotency_key": "k", "status": "succeeded", "value": {"b": [1]}, "new": 1}
    batch = decoded(RESULTS, json.dumps(fields).encode(), headers=JSON)
    assert [row.record for row in batch.results] == [Result("a", "1", "k", "succeeded", b'{"b":[1]}')]


def test_json_that_is_no_result_is_refused():
    batch = decoded(RESULTS, b'{"agent": "a"}', b"[", b"[]", headers=JSON)
    assert [each.source.offset for each in batch.refused] == [0, 1, 2]
