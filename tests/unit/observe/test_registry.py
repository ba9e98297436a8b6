"""The registry is the complete list: names that Prometheus takes, labels that stay few, and a reader for each row."""

import re

from streams.observe import registry
from streams.observe.__main__ import FILE, document
from streams.observe.registry import METRICS

UNBOUNDED = {"agent_key", "agent_id", "invocation", "invocation_id", "idempotency_key", "tenant", "client"}


def test_every_metric_says_its_kind_its_unit_and_what_it_means():
    assert all(metric.kind in ("counter", "gauge", "histogram") for metric in METRICS)
    assert all(metric.unit and metric.meaning for metric in METRICS)


def test_histograms_and_only_they_have_bounds_that_grow():
    assert all((metric.kind == "histogram") == bool(metric.bounds) for metric in METRICS)
    assert all(list(metric.bounds) == sorted(set(metric.bounds)) for metric in METRICS)


def test_names_say_the_unit_of_seconds():
    assert [
        metric.name for metric in METRICS if metric.unit == "seconds" and not metric.name.endswith("_seconds")
    ] == []


def test_names_are_unique_and_as_prometheus_wants_them():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) >= 40
    assert [name for name in names if not re.fullmatch(r"streams_[a-z_]+", name) or name.endswith("_total")] == []


def test_no_label_names_an_agent_instance_or_an_invocation_and_tenants_only_with_their_usage():
    named = [metric.name for metric in METRICS if UNBOUNDED & set(metric.labels)]
    assert named == [f"streams_llm_usage_{what}" for what in ("requests", "input_tokens", "output_tokens", "cost")]


def test_the_list_has_every_metric_of_the_module():
    assert set(METRICS) == {value for value in vars(registry).values() if isinstance(value, registry.Metric)}


def test_the_list_for_people_is_that_of_the_registry():
    assert FILE.read_text() == document(), "write it again: python -m streams.observe"


def test_the_list_has_a_row_for_each_metric():
    rows = [line for line in document().splitlines() if line.startswith("| `streams_")]
    assert len(rows) == len(METRICS)
    assert all(line.count(" | ") == 4 for line in rows)


def test_names_in_the_documentation_are_in_the_registry():
    known = {
        *(name for metric in METRICS for name in (metric.name, *metric.series)),
        "streams_kafka",
        "streams_postgres",
    }
    text = (FILE.parents[2] / "README.md").read_text()
    assert set(re.findall(r"\bstreams_[a-z_]+", text)) <= known
