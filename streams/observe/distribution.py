"""How values are spread, counted where they arise: the plain integers behind the histograms of the registry.

Cheap enough for the hot path: adding a value to a known series is a look-up, a bisection and two additions. Bounded in
memory: label values beyond the bound are counted together as `other`, whoever invents them.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import inf

from streams.observe.registry import OTHER, Metric

MAX_SERIES = 200
"""Label values of one histogram that are told apart: a scrape of 1,000 would hold the event loop for 0.1 s."""


class Distribution:
    """How many values fell into each bucket, and their sum.

    Args:
        bounds: Upper bounds of the buckets, inclusive, growing; one more bucket takes what is above the last.

    Attributes:
        counts: Values in each bucket alone; a scrape adds them up.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: Distribution) -> None:
        """Count what *other*, of the same bounds, has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """Values so far."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return the bounds, the last one infinite, and how many values are not above each."""
        return list(zip((*self.bounds, inf), accumulate(self.counts), strict=True))


class Distributions(dict[tuple[str, ...], Distribution]):
    """The distributions of one histogram by label values: `steps["tool", "crm", "ok"].add(0.2)`.

    Args:
        metric: Its row in the registry.
        max_series: Label values that are told apart; those that come later share the series `other`.
    """

    def __init__(self, metric: Metric, max_series: int = MAX_SERIES) -> None:
        super().__init__()
        self.metric = metric
        self._max_series = max_series
        self._other = (OTHER,) * len(metric.labels)
        if not metric.labels:
            self[()] = Distribution(metric.bounds)

    def __missing__(self, labels: tuple[str, ...]) -> Distribution:
        if len(self) >= self._max_series and labels != self._other:
            return self[self._other]
        found = self[labels] = Distribution(self.metric.bounds)
        return found
