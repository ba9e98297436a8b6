"""`python -m streams.observe` writes the list of metrics for people, `infra/prometheus/metrics.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from streams.observe import registry as m

FILE = Path(__file__).parents[2] / "infra" / "prometheus" / "metrics.md"

HEAD = """\
# Metrics

Every metric of `/metrics`, made from `streams/observe/registry.py` by `python -m streams.observe`; a test holds that
they agree. Beside these there are the `process_` and `python_` metrics of the Prometheus client.

Counters only grow while the process lives. A histogram has the series `_bucket`, `_sum` and `_count`; it tells 200
combinations of label values apart, a scrape 1,000 of any metric (`STREAMS_OBSERVE__MAX_SERIES`), and counts the rest as
`other`; `streams_series_folded` says when. Bounds of a histogram's buckets stand behind its unit.

| metric | kind | labels | unit | meaning |
|---|---|---|---|---|
"""


def document() -> str:
    """Return the list as Markdown."""
    return HEAD + "".join(map(_row, m.METRICS))


def _row(metric: m.Metric) -> str:
    name = metric.series[0] if metric.kind == "counter" else metric.name
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    unit = f"{metric.unit}: {', '.join(f'{bound:g}' for bound in metric.bounds)}" if metric.bounds else metric.unit
    return f"| `{name}` | {metric.kind} | {labels} | {unit} | {metric.meaning} |\n"


if __name__ == "__main__":
    if not FILE.parent.is_dir():
        sys.exit(f"{FILE.parent} does not exist; run this in a checkout of the project")
    FILE.write_text(document(), encoding="utf-8")
