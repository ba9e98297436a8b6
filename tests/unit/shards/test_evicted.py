"""The filter of evicted agents: never forgets one, seldom knows a stranger, and says so when it cannot tell."""

from streams.records import decode_as
from streams.records.journal import EvictedPage, EvictedSummary
from streams.shards import evicted
from streams.shards.evicted import SUMMARY_KEY, EvictedFilter, page_key

AGENTS = 20_000


def journaled(filter_: EvictedFilter) -> dict[bytes, bytes]:
    return dict(filter_.writes())


def restored(journal: dict[bytes, bytes]) -> EvictedFilter:
    found = EvictedFilter()
    for key, data in journal.items():
        if key != SUMMARY_KEY:
            found.restore(decode_as(EvictedPage, data))
    found.finish(decode_as(EvictedSummary, journal[SUMMARY_KEY]) if SUMMARY_KEY in journal else None)
    return found


def test_none_that_was_added_is_forgotten_and_few_others_are_known():
    known = EvictedFilter()
    for number in range(AGENTS):
        known.add(f"support/{number}")
    assert all(known.may_contain(f"support/{number}") for number in range(AGENTS))
    strangers = sum(known.may_contain(f"other/{number}") for number in range(AGENTS))
    assert strangers < AGENTS * 0.004
    assert known.size_bytes < AGENTS * 6


def test_it_comes_back_from_the_journal():
    known = EvictedFilter()
    journal: dict[bytes, bytes] = {}
    for number in range(AGENTS):
        known.add(f"support/{number}")
        if number % 1_000 == 0:
            journal |= journaled(known)
    journal |= journaled(known)
    back = restored(journal)
    assert back.broken == ""
    assert len(back) == len(known)
    assert all(back.may_contain(f"support/{number}") for number in range(AGENTS))
    assert not all(back.may_contain(f"other/{number}") for number in range(100))
    back.add("another/1")
    assert back.may_contain("another/1")


def test_adding_a_few_rewrites_a_few_small_records():
    known = EvictedFilter()
    for number in range(AGENTS):
        known.add(f"support/{number}")
    journaled(known)
    known.add("another/1")
    written = journaled(known)
    assert len(written) == 2
    assert sum(map(len, written.values())) < 1_000
    assert journaled(known) == {}


def test_with_a_page_missing_nobody_counts_as_new():
    known = EvictedFilter()
    for number in range(1_000):
        known.add(f"support/{number}")
    journal = journaled(known)
    del journal[page_key(0, 3)]
    back = restored(journal)
    assert "1 of 64 pages of generation 0 are missing" in back.broken
    assert back.may_contain("anybody/at-all")
    back.add("another/1")
    assert journaled(back) == {}


def test_outgrown_it_knows_everybody_after_a_restore_too(monkeypatch):
    monkeypatch.setattr(evicted, "FIRST_PAGES", 1)
    monkeypatch.setattr(evicted, "GENERATIONS", 2)
    known = EvictedFilter()
    number = 0
    while not known.broken:
        known.add(f"support/{number}")
        number += 1
    assert number > 3 * evicted.AGENTS_PER_PAGE
    assert known.may_contain("anybody/at-all")
    back = restored(journaled(known))
    assert "outgrown" in back.broken
    assert back.may_contain("anybody/at-all")


def test_without_anything_journaled_nobody_is_known():
    assert not restored({}).may_contain("support/1")
