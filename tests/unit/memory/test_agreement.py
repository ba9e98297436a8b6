"""Whether Postgres has what the log has: told from versions, digests and the sink's position."""

import pytest

from streams.memory.agreement import MOST_EXAMPLES, Kept, Logged, Report, compare, digest_of
from streams.records.state import StateDelta


def logged(sequence=5, value=b"1", offset=10, deleted=False):
    delta = StateDelta("a/1", "note", None if deleted else value, 1, sequence, "a/1", 0, deleted)
    return Logged(delta, 0, offset)


@pytest.mark.parametrize(
    ("kept", "watermark", "verdict"),
    [
        (Kept(1, 5, digest_of(b"1")), 11, "agrees"),
        (Kept(1, 5, digest_of(b"2")), 11, "differs"),
        (Kept(1, 5, None), 11, "differs"),
        (Kept(1, 6, digest_of(b"2")), 11, "newer in postgres"),
        (Kept(2, 1, digest_of(b"2")), 11, "newer in postgres"),
        (Kept(1, 4, digest_of(b"0")), 11, "behind"),
        (Kept(1, 4, digest_of(b"0")), 10, "waits for the sink"),
        (None, 11, "missing"),
        (None, 10, "waits for the sink"),
    ],
)
def test_a_record_of_the_log_against_what_is_kept(kept, watermark, verdict):
    assert compare(logged(), kept, watermark) == verdict


def test_a_deleted_record_agrees_with_a_row_without_a_value():
    assert compare(logged(deleted=True), Kept(1, 5, None), 11) == "agrees"
    assert compare(logged(deleted=True), Kept(1, 5, digest_of(b"1")), 11) == "differs"


def test_a_report_counts_all_and_names_some():
    report = Report()
    report.take([logged(offset=n) for n in range(100)], {}, 50)
    assert (report.counts["missing"], report.counts["waits for the sink"], report.wrong) == (50, 50, 50)
    assert len(report.examples) == MOST_EXAMPLES
    assert report.examples[0] == "a/1.note is missing in Postgres (partition 0 offset 0)"
