"""Version vectors: what is told apart, what pruning keeps and what it gives up."""

from hypothesis import given
from hypothesis import strategies as st

from streams.records.versions import MAX_WRITERS, OTHERS, Missed, advance, missed, relate

WRITERS = st.sampled_from([f"agent/{n}" for n in range(8)])


def history(writers: list[str], most: int, start: dict[str, int] | None = None) -> list[dict[str, int]]:
    versions = [start or {}]
    for writer in writers:
        versions.append(advance(versions[-1], writer, most=most))
    return versions


def test_four_relations_are_told_apart():
    base = history(["a", "b"], MAX_WRITERS)[-1]
    mine, theirs = advance(base, "a"), advance(base, "b")
    assert relate(base, dict(reversed(base.items()))) == "equal"
    assert relate(base, mine) == "older"
    assert relate(mine, base) == "newer"
    assert relate(mine, theirs) == "concurrent"
    assert relate({}, base) == "older"
    assert relate({}, {}) == "equal"


def test_a_conflict_names_who_was_missed():
    seen = {"a": 3, "b": 1}
    current = advance(advance(seen, "b"), "c")
    assert missed(seen, current) == Missed(("c", "b"))
    assert str(missed(seen, current)) == "c, b"
    assert str(missed(seen, seen)) == "nobody"


def test_the_writer_that_has_been_silent_longest_is_folded():
    versions = history(["a", "b", "a", "c"], 2)
    assert versions[-1] == {"a": 2, "c": 1, OTHERS: 1}
    assert advance(versions[-1], "b", most=2) == {"c": 1, "b": 1, OTHERS: 3}


def test_writes_of_the_folded_are_counted_when_they_are_missed():
    versions = history(["a", "b", "c", "d"], 2)
    assert missed(versions[1], versions[4]) == Missed(("d", "c"), 1)
    assert str(missed(versions[1], versions[4])) == "d, c, 1 by others"


@given(st.lists(WRITERS, max_size=40), st.integers(1, 6))
def test_one_history_is_totally_ordered_however_it_is_pruned(writers, most):
    versions = history(writers, most)
    for earlier in range(len(versions)):
        for later in range(len(versions)):
            expected = "equal" if earlier == later else "older" if earlier < later else "newer"
            assert relate(versions[earlier], versions[later]) == expected


@given(st.lists(WRITERS, max_size=40), st.integers(1, 6))
def test_the_sum_is_the_number_of_writes_and_the_size_is_bounded(writers, most):
    for number, version in enumerate(history(writers, most)):
        assert sum(version.values()) == number
        assert len(version.keys() - {OTHERS}) <= most
    if writers:
        assert [name for name in history(writers, most)[-1] if name != OTHERS][-1] == writers[-1]


WRITES = st.lists(WRITERS, min_size=1, max_size=6)


@given(st.lists(WRITERS, max_size=20), WRITES, WRITES)
def test_histories_that_parted_are_concurrent_while_nobody_is_folded(common, mine, theirs):
    start = history(common, MAX_WRITERS)[-1]
    one = history([f"mine/{w}" for w in mine], MAX_WRITERS * 2, start)[-1]
    other = history([f"theirs/{w}" for w in theirs], MAX_WRITERS * 2, start)[-1]
    assert relate(one, other) == "concurrent"


@given(st.lists(WRITERS, max_size=30), st.integers(0, 30), st.integers(1, 6))
def test_every_missed_write_is_named_or_counted(writers, seen, most):
    versions = history(writers, most)
    seen = min(seen, len(versions) - 1)
    found = missed(versions[seen], versions[-1])
    since = writers[seen:]
    assert set(found.writers) <= set(since)
    assert bool(found.writers or found.others) == bool(since)
    if versions[seen].get(OTHERS) == versions[-1].get(OTHERS):
        assert set(found.writers) == set(since)
        assert found.others == 0
        assert not since or found.writers[0] == since[-1]
