"""What a PromQL expression asks for: names of metrics, and the labels that it demands of each."""

from __future__ import annotations

import re
from typing import NamedTuple

from streams.observe.registry import METRICS, Metric

SERIES = {name: metric for metric in METRICS for name in metric.series}
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds to everything."""

_SELECTOR = re.compile(r"\b(streams_\w+)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


class Selector(NamedTuple):
    """One selection of series in an expression."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> list[Selector]:
    """Return everything of this project that *expression* selects; recorded series are not among it."""
    found = (match.groups() for match in _SELECTOR.finditer(expression))
    return [Selector(name, tuple(_MATCHER.findall(matchers or ""))) for name, matchers in found]


def problems(expression: str) -> list[str]:
    """Return what the registry does not know of what *expression* asks for."""
    found = []
    used: set[str] = set()
    for name, matchers in selectors(expression):
        metric = SERIES.get(name)
        if metric is None:
            found.append(f"{name} is not in the registry")
            continue
        used |= labels_of(metric)
        found += [
            f"{name} has no label {label}, or not {value!r}"
            for label, operator, value in matchers
            if label not in labels_of(metric) or (label == "le" and float(value) not in metric.bounds)
        ]
    for grouping in _GROUPING.findall(expression):
        labels = {label.strip() for label in grouping.split(",") if label.strip()}
        if used and labels - used - SCRAPED:
            found.append(f"nothing in {expression!r} has {sorted(labels - used - SCRAPED)}")
    return found


def labels_of(metric: Metric) -> set[str]:
    """Return the labels that a scrape has."""
    return {*metric.labels, *SCRAPED, *(("le",) if metric.kind == "histogram" else ())}
