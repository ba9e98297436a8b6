"""Makes the Grafana dashboard: `python infra/grafana/dashboard.py` writes `agent-streams.json` beside this file.

The JSON is kept in the repository, so that it can be imported without Python; a test holds that it is what this makes.
Each panel asks Prometheus for metrics of `streams.observe.registry`; what they mean is said there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)

FILE: Final = Path(__file__).with_name("agent-streams.json")
SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE: Final = "$__rate_interval"
ENDED: Final = "streams_invocation_seconds_count"
THIRD, QUARTER, SIXTH = 8, 6, 4
"""Widths of panels: the grid has 24 columns."""

Query = tuple[str, str]
"""PromQL, and the legend of its series."""


def dashboard() -> model.Dashboard:
    """Return the dashboard."""
    made = (
        build.Dashboard("agent-streams")
        .uid("agent-streams")
        .description("Invocations of AI agents on Kafka: how far behind, how long they take, what holds them up.")
        .tags(["agents", "kafka"])
        .time("now-1h", "now")
        .refresh("15s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for title, panels in _rows():
        made = made.with_row(build.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    built = made.build()
    for number, placed in enumerate(built.panels or (), 1):
        placed.id_val = number
    return built


def to_json() -> str:
    """Return the dashboard as the file has it."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard()) + "\n"


def _rows() -> Iterator[tuple[str, list[Any]]]:
    yield "Now", [
        _number("Longest lag", "s", "max(streams_lag_seconds)", 10, 30),
        _number("Invocations a second", "reqps", f"sum(rate({ENDED}[{RATE}]))"),
        _number("Failed", "percentunit", _share(ENDED, 'outcome="failed"'), 0.01, 0.05),
        _number("Degraded", "percentunit", _share(ENDED, 'outcome="degraded"'), 0.01, 0.1),
        _number("Breakers open", "short",
                'sum(max by (dependency) (streams_breaker_phase{phase=~"open|half-open|forced-open"}))', 1, 1),
        _number("Dead letters in 24 hours", "short", "sum(increase(streams_dead_letters_total[24h]))", 1, 1),
    ]  # fmt: skip
    yield "How far behind", [
        _graph("Lag", "s", ("max by (lane) (streams_lag_seconds)", "{{lane}}")),
        _graph("Lag of invocations by partition", "s",
               ('max by (lane, partition) (streams_lag_seconds{lane=~"invocations.*"})', "{{lane}} {{partition}}")),
        _graph("Unread and open", "short",
               ("sum by (lane) (max by (lane, partition) (streams_lag_records))", "{{lane}} unread"),
               ("sum by (lane) (max by (lane, partition) (streams_lag_open_records))", "{{lane}} open")),
        _graph("Arriving and draining", "reqps",
               ("sum by (lane) (max by (lane, partition) (streams_lag_arrivals_per_second))", "{{lane}} arrive"),
               ("sum by (lane) (max by (lane, partition) (streams_lag_drained_per_second))", "{{lane}} drain")),
        _graph("Invocations that wait, by agent", "short", ("max by (agent) (streams_queue_depth)", "{{agent}}"),
               ("max(streams_queue_uncounted)", "not counted yet")),
        _graph("Oldest of them", "s", ("max by (agent) (streams_queue_oldest_seconds)", "{{agent}}")),
        _states("What producers are told", 'max by (lane) (streams_lane_level{level="slow"}'
                ' or 2 * streams_lane_level{level="closed"})', "{{lane}}", ("open", "slow", "closed")),
        _graph("Retry-after", "s", ("max by (lane) (streams_lane_retry_after_seconds)", "{{lane}}")),
        _graph("Admitted and refused by gateways", "reqps",
               (f"sum by (decision) (rate(streams_gateway_admissions_total[{RATE}]))", "{{decision}}")),
    ]  # fmt: skip
    yield "Invocations", [
        _graph("Ended, by outcome", "reqps", (f"sum by (outcome) (rate({ENDED}[{RATE}]))", "{{outcome}}")),
        _graph("From submission to result", "s", *_quantiles("streams_invocation_seconds", "agent")),
        _graph("From submission to start", "s", *_quantiles("streams_invocation_wait_seconds", "agent")),
        _graph("Open", "short", ("sum(streams_shard_open_invocations)", "open"),
               ("sum(streams_shard_saturated)", "shards that take no more")),
        _graph("Tokens of an invocation", "short", *_quantiles("streams_invocation_tokens", "agent")),
        _graph("Repeated, refused, put off", "reqps",
               (f"sum(rate(streams_shard_repeated_invocations_total[{RATE}]))", "repeated"),
               (f"sum(rate(streams_shard_conflicting_invocations_total[{RATE}]))", "conflicting"),
               (f"sum(rate(streams_shard_deferred_invocations_total[{RATE}]))", "deferred")),
    ]  # fmt: skip
    yield (
        "Steps",
        [
            _graph("From request to outcome, 99 %", "s", _quantile(0.99, "streams_step_seconds", "kind", "name")),
            _graph(
                "Outcomes",
                "reqps",
                (f"sum by (kind, outcome) (rate(streams_step_seconds_count[{RATE}]))", "{{kind}} {{outcome}}"),
            ),
            _graph("Attempts of tools, 99 %", "s", _quantile(0.99, "streams_tool_attempt_seconds", "tool")),
        ],
    )
    yield "Shards", [
        _graph("Transactions", "ops", (f"sum(rate(streams_transaction_seconds_count[{RATE}]))", "committed")),
        _graph("Time of a transaction", "s", *_quantiles("streams_transaction_seconds")),
        _graph("Sizes", "short", _mean("streams_transaction_records", "records of a transaction"),
               _mean("streams_batch_records", "records of a step")),
    ]  # fmt: skip
    yield "Dependencies", [
        _states("Breakers", 'max by (dependency) (streams_breaker_phase{phase="half-open"}'
                ' or 2 * streams_breaker_phase{phase=~"open|forced-open"})', "{{dependency}}",
                ("closed", "half-open", "open"), 12),
        _graph("Answered by fallbacks because a breaker is open", "reqps",
               (f"sum(rate(streams_shard_short_circuited_calls_total[{RATE}]))", "calls"), width=12),
    ]  # fmt: skip
    yield "Model pools", [
        _graph("Requests held and under way", "short", ("sum by (pool) (streams_llm_held_requests)", "{{pool}} held"),
               ("sum by (pool) (streams_llm_running_requests)", "{{pool}} under way")),
        _graph("Held for", "s", ("max by (pool) (streams_llm_oldest_held_seconds)", "{{pool}} oldest"),
               ("max by (pool) (streams_llm_expected_wait_seconds)", "{{pool}} expected"),
               _quantile(0.99, "streams_llm_held_seconds", "pool")),
        _graph("Fill of the fullest bucket", "percentunit",
               ("1 - min by (pool, key) (streams_llm_bucket_available / streams_llm_bucket_capacity)", "{{key}}")),
        _graph("Tokens a minute", "short",
               (f"60 * sum by (pool, direction) (rate(streams_llm_tokens_total[{RATE}]))", "{{pool}} {{direction}}")),
        _graph("Calls, 99 %", "s", _quantile(0.99, "streams_llm_call_seconds", "pool", "outcome")),
        _graph("Turned away, failed, keys out", "short",
               (f"sum by (pool) (increase(streams_llm_throttled_calls_total[{RATE}]))", "{{pool}} 429"),
               (f"sum by (pool) (increase(streams_llm_unavailable_calls_total[{RATE}]))", "{{pool}} failed"),
               ("sum by (pool) (streams_llm_key_out)", "{{pool}} keys out")),
    ]  # fmt: skip
    yield "Memory", [
        _graph("Written to Postgres", "rowsps", (f"sum(rate(streams_memory_read_rows_total[{RATE}]))", "read"),
               (f"sum(rate(streams_memory_written_rows_total[{RATE}]))", "written"),
               (f"sum(rate(streams_memory_changed_rows_total[{RATE}]))", "changed")),
        _graph("Write-back is behind by", "s",
               ('max by (lane) (streams_lag_seconds{lane=~"state-deltas|results"})', "{{lane}}")),
        _graph("Time of a batch, and of a cold read", "s",
               _quantile(0.99, "streams_memory_flush_seconds", legend="batch"),
               _quantile(0.99, "streams_cold_read_query_seconds", legend="read")),
        _graph("State that was in memory", "percentunit",
               (f"1 / (1 + sum(rate(streams_shard_state_misses_total[{RATE}]))"
                f" / sum(rate(streams_shard_state_hits_total[{RATE}])))", "hits")),
        _graph("State in memory", "bytes", ("sum(streams_state_cache_bytes)", "held"),
               ("sum(streams_state_cache_limit_bytes)", "limit"),
               ("sum(streams_shard_state_dirty_bytes)", "not flushed")),
        _graph("Trouble", "short", (f"sum(increase(streams_memory_failed_attempts_total[{RATE}]))", "Postgres away"),
               (f"sum by (name) (increase(streams_shard_shared_conflicts_total[{RATE}]))", "conflicts of {{name}}")),
    ]  # fmt: skip
    yield "Processes", [
        _graph("Responses of gateways", "reqps",
               (f"sum by (route, status) (rate(streams_gateway_responses_total[{RATE}]))", "{{route}} {{status}}"),
               width=QUARTER),
        _graph("Not ready", "short", ("1 - min by (instance, role) (streams_role_ready)", "{{role}} {{instance}}"),
               ("1 - min by (instance) (streams_log_up)", "without Kafka {{instance}}"), width=QUARTER),
        _graph("Resident memory", "bytes", ("process_resident_memory_bytes", "{{instance}}"), width=QUARTER),
        _graph("CPU", "percentunit", (f"rate(process_cpu_seconds_total[{RATE}])", "{{instance}}"), width=QUARTER),
    ]  # fmt: skip


def _graph(title: str, unit: str, *queries: Query, width: int = THIRD) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .height(7)
        .span(width)
        .fill_opacity(8)
        .legend(
            VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .calcs([])
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    for letter, query in zip("ABCDEF", queries, strict=False):
        panel = panel.with_target(_target(letter, *query))
    return panel


def _number(title: str, unit: str, query: str, warn: float | None = None, alarm: float | None = None) -> stat.Panel:
    steps = [model.Threshold(value=None, color="green")]
    if warn is not None and alarm is not None:
        steps += [model.Threshold(value=warn, color="orange"), model.Threshold(value=alarm, color="red")]
    return (
        stat.Panel()
        .title(title)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(SIXTH)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_target("A", query, ""))
    )


def _states(
    title: str, query: str, legend: str, names: tuple[str, str, str], width: int = THIRD
) -> statetimeline.Panel:
    """Return a panel of series that are 0, 1 or 2 for the three *names*, the last one being the worst."""
    colors = ("green", "orange", "red")
    options = {
        str(number): model.ValueMappingResult(text=name, color=color, index=number)
        for number, (name, color) in enumerate(zip(names, colors, strict=True))
    }
    return (
        statetimeline.Panel()
        .title(title)
        .datasource(SOURCE)
        .height(7)
        .span(width)
        .show_value(VisibilityMode.NEVER)
        .row_height(0.9)
        .line_width(0)
        .fill_opacity(70)
        .mappings([model.ValueMap(options=options)])
        .with_target(_target("A", query, legend))
    )


def _target(letter: str, query: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).expr(query).legend_format(legend).range()


def _quantile(part: float, metric: str, *labels: str, legend: str = "") -> Query:
    legend = legend or " ".join(f"{{{{{label}}}}}" for label in labels)
    by = ", ".join(("le", *labels))
    return f"histogram_quantile({part}, sum by ({by}) (rate({metric}_bucket[{RATE}])))", f"{legend} {part:.0%}".strip()


def _quantiles(metric: str, *labels: str) -> tuple[Query, Query]:
    return _quantile(0.5, metric, *labels), _quantile(0.99, metric, *labels)


def _mean(metric: str, legend: str) -> Query:
    return f"sum(rate({metric}_sum[{RATE}])) / sum(rate({metric}_count[{RATE}]))", legend


def _share(metric: str, selector: str) -> str:
    return f"(sum(rate({metric}{{{selector}}}[{RATE}])) or vector(0)) / sum(rate({metric}[{RATE}]))"


if __name__ == "__main__":
    FILE.write_text(to_json(), encoding="utf-8")
