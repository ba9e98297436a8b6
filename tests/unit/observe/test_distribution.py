"""Distributions count into buckets whose bounds are inclusive, and tell no more series apart than they may."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from streams.observe.distribution import Distribution, Distributions
from streams.observe.registry import Metric

METRIC = Metric("histogram", "seconds", "Of a test", "streams_test", ("tool", "outcome"), (0.1, 1.0))


def test_a_value_at_a_bound_is_not_above_it():
    it = Distribution((0.1, 1.0))
    for value in (0.1, 0.100001, 1.0, 1.5):
        it.add(value)
    assert it.counts == [1, 2, 1]
    assert it.cumulative() == [(0.1, 1), (1.0, 3), (inf, 4)]


@given(st.lists(st.floats(0, 100)))
def test_buckets_say_how_many_values_are_not_above_their_bound(values):
    it = Distribution((0.5, 5.0, 50.0))
    for value in values:
        it.add(value)
    assert it.cumulative() == [(b, sum(v <= b for v in values)) for b in (0.5, 5.0, 50.0, inf)]
    assert it.count == len(values)


def test_labels_beyond_the_bound_share_one_series():
    several = Distributions(METRIC, max_series=3)
    for number in range(10):
        several[f"tool-{number}", "ok"].add(0.5)
    several["tool-1", "ok"].add(0.5)
    assert list(several) == [("tool-0", "ok"), ("tool-1", "ok"), ("tool-2", "ok"), ("other", "other")]
    assert [it.count for it in several.values()] == [1, 2, 1, 7]


def test_without_labels_there_is_a_series_from_the_start():
    several = Distributions(Metric("histogram", "records", "Of a test", "streams_test", (), (1.0,)))
    assert several[()].cumulative() == [(1.0, 0), (inf, 0)]
