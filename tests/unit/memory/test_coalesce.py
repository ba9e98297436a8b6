from hypothesis import given
from hypothesis import strategies as st

from streams.broker.port import LogRecord
from streams.memory.coalesce import newest_results, newest_states
from streams.memory.decode import Row
from streams.records.invocations import Result
from streams.records.state import StateDelta

SOURCE = LogRecord("t", 0, 0, 0, None, None)

writes = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 3), st.integers(1, 9), st.booleans())
)


def row(owner: str, record: str, epoch: int, sequence: int, deleted: bool = False) -> Row[StateDelta]:
    return Row(StateDelta(owner, record, None, epoch, sequence, "w", 0, deleted), SOURCE)


@given(writes)
def test_the_newest_write_of_each_record_remains_sorted_by_key(history):
    kept = newest_states(row(*write) for write in history)
    expected: dict[tuple[str, str], tuple[int, int]] = {}
    for owner, record, epoch, sequence, _ in history:
        expected[owner, record] = max(expected.get((owner, record), (0, 0)), (epoch, sequence))
    found = {(r.record.owner, r.record.record): (r.record.epoch, r.record.sequence) for r in kept}
    assert found == expected
    assert list(found) == sorted(found)


def test_a_delete_is_a_write_like_others():
    (kept,) = newest_states([row("a", "x", 1, 3, True), row("a", "x", 1, 2)])
    assert kept.record.deleted
    (kept,) = newest_states([row("a", "x", 1, 3, True), row("a", "x", 1, 4)])
    assert not kept.record.deleted


def test_the_result_that_finished_last_remains():
    results = [Row(Result("a", "1", "k", "succeeded", finished_at_ms=at), SOURCE) for at in (5, 9, 7)]
    other = Row(Result("a", "0", "k", "failed", finished_at_ms=1), SOURCE)
    assert [r.record.finished_at_ms for r in newest_results([*results, other])] == [1, 9]
