"""Sums of usage: windows, exactness over crashes and takeovers, and what is kept."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.llm.usage_counts import UsageCounts
from streams.llm.usage_sums import OTHERS, UsageSums, window_before_ms, window_start_ms
from streams.records.control import Usage
from streams.records.steps import LlmResult

DAY_MS = 86_400_000
AT_MS = 1_700_000_000_000


def result(tenant: str = "acme", used: tuple[int, int] = (10, 5), model: str = "m", **fields) -> LlmResult:
    cost = used[0] / 1000
    return LlmResult(
        "a/b/c", 0, 1, "fast", "ok", input_tokens=used[0], output_tokens=used[1], cost=cost,
        served_by=f"fast:{model}" if model else "", tenant=tenant, **fields,
    )  # fmt: skip


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("window", "start", "before"),
    [
        ("hour", ms(2026, 3, 1, 0), ms(2026, 2, 28, 23)),
        ("day", ms(2026, 3, 1), ms(2026, 2, 28)),
        ("month", ms(2026, 3, 1), ms(2026, 2, 1)),
    ],
)
def test_windows_are_those_of_the_calendar(window, start, before):
    assert window_start_ms(ms(2026, 3, 1, 0, 59, 59), window) == start
    assert window_start_ms(start, window) == start
    assert window_before_ms(start, window) == before


def test_results_are_summed_by_tenant_model_window_and_shard():
    sums = UsageSums()
    sums.count(0, 0, AT_MS, result())
    sums.count(0, 1, AT_MS, result(used=(1, 2)))
    sums.count(1, 0, AT_MS, result())
    sums.count(0, 2, AT_MS, result("other", model="n"))
    sums.count(0, 3, AT_MS + DAY_MS, result())
    start = window_start_ms(AT_MS, "day")
    assert [(u.shard, u.tenant, u.model, u.window_start_ms - start, u.requests, u.input_tokens, u.output_tokens,
             u.through) for u in sums.drain().values()] == [
        (0, "acme", "m", 0, 2, 11, 7, 2),
        (0, "other", "n", 0, 1, 10, 5, 3),
        (1, "acme", "m", 0, 1, 10, 5, 1),
        (0, "acme", "m", DAY_MS, 1, 10, 5, 4),
    ]  # fmt: skip
    spent = sums.spent("acme", start)
    assert spent.tokens == 33
    assert spent.cost == pytest.approx(0.021)
    assert sums.drain() == {}


def test_a_result_that_is_read_twice_counts_once():
    sums = UsageSums()
    assert sums.count(0, 7, AT_MS, result())
    assert not sums.count(0, 7, AT_MS, result())
    assert sums.spent("acme", window_start_ms(AT_MS, "day")).tokens == 15


def test_what_used_nothing_makes_no_row():
    sums = UsageSums()
    assert not sums.count(0, 0, AT_MS, result(used=(0, 0)))
    assert list(sums.rows()) == []


def test_a_result_without_a_served_model_is_counted_for_the_pool():
    sums = UsageSums()
    sums.count(0, 0, AT_MS, result(model=""))
    assert [row.model for row in sums.rows()] == ["fast"]


LOG = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 20), st.integers(0, 20)), max_size=30)


LIVES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.booleans()), max_size=6)


@given(LOG, LIVES)
def test_ends_between_any_write_and_commit_lose_and_double_nothing(log, lives):
    """Each life reads on from the committed position, writes some of its rows or all, and commits only after all."""
    written: dict[bytes, Usage] = {}
    committed = 0
    for reads, writes, commits in [*lives, (len(log), len(log), True)]:
        sums = UsageSums()
        for row in written.values():
            sums.merge(row, own=True)
        end = min(len(log), committed + reads)
        for offset in range(committed, end):
            tenant, used_in, used_out = log[offset]
            sums.count(0, offset, AT_MS, result(tenant, (used_in, used_out)))
        rows = {key.encode(): row for key, row in sums.drain().items()}
        written |= dict(list(rows.items())[:writes])
        if commits and writes >= len(rows):
            committed = end
    for name in ("a", "b"):
        used = [(used_in, used_out) for tenant, used_in, used_out in log if tenant == name and used_in + used_out]
        rows_of = [row for row in written.values() if row.tenant == name]
        assert sum(row.requests for row in rows_of) == len(used)
        assert sum(row.input_tokens for row in rows_of) == sum(each[0] for each in used)
        assert sum(row.output_tokens for row in rows_of) == sum(each[1] for each in used)


def test_a_row_that_comes_late_changes_nothing_and_its_owner_writes_its_own_again():
    sums = UsageSums()
    sums.count(0, 4, AT_MS, result())
    (row,) = sums.drain().values()
    stale = Usage("acme", "m", row.window_start_ms, 99, 99, 99, 99.0, 0, 2)
    sums.merge(stale, own=False)
    assert sums.drain() == {}
    sums.merge(stale, own=True)
    assert list(sums.drain().values()) == [row]


def test_a_row_that_goes_further_takes_the_place_of_ones_own():
    sums = UsageSums()
    sums.count(0, 4, AT_MS, result())
    start = window_start_ms(AT_MS, "day")
    sums.merge(Usage("acme", "m", start, 5, 100, 50, 1.5, 0, 9), own=True)
    assert not sums.count(0, 8, AT_MS, result())
    assert sums.count(0, 9, AT_MS, result())
    spent = sums.spent("acme", start)
    assert spent.tokens == 165
    assert spent.cost == pytest.approx(1.51)


def test_old_windows_are_forgotten_and_never_counted_anew():
    sums = UsageSums()
    sums.count(0, 0, AT_MS, result())
    sums.drain()
    later = window_start_ms(AT_MS, "day") + DAY_MS
    sums.forget_before(later)
    assert list(sums.rows()) == []
    assert not sums.count(0, 1, AT_MS, result())
    sums.merge(Usage("acme", "m", later - DAY_MS, 5, 100, 50, 1.5, 0, 9), own=True)
    assert list(sums.rows()) == []


def test_what_is_kept_is_bounded():
    sums = UsageSums(max_rows=3)
    for number in range(10):
        sums.count(0, number, AT_MS, result(f"t{number}"))
    rows = {row.tenant: row.requests for row in sums.rows()}
    assert rows == {"t0": 1, "t1": 1, "t2": 1, OTHERS: 7}


def test_metrics_tell_so_many_tenants_apart_and_sum_the_others():
    counts = UsageCounts(max_tenants=2)
    for tenant in ("a", "b", "c", "d", "a"):
        counts.count(result(tenant))
    assert {labels: used.requests for labels, used in counts.used.items()} == {
        ("a", "m"): 2, ("b", "m"): 1, (OTHERS, "m"): 2,
    }  # fmt: skip
