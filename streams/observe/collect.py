"""Reading the counters of the roles of this process when somebody scrapes: pull, and no cost before that.

The roles keep plain integers for themselves. A scrape runs on their event loop, so that what it reads is never half
written. Which metrics exist is the registry's word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from streams.observe import registry as m
from streams.observe.distribution import Distribution, Distributions
from streams.observe.readiness import missing

if TYPE_CHECKING:
    from streams.backpressure import LagReport
    from streams.breakers import Guard
    from streams.broker.owned_queue import OwnedQueue
    from streams.control.role import ControlRole
    from streams.gateway.role import GatewayRole
    from streams.llm.role import LlmRole
    from streams.memory.role import MemoryRole
    from streams.shards.role import ShardRole
    from streams.tools.role import ToolRole


class Sample(NamedTuple):
    """One value of one metric; labels in the order of the metric's."""

    metric: m.Metric
    value: float | Distribution
    labels: tuple[str, ...] = ()


class RoleCollector(Collector):
    """Gives a Prometheus registry what the roles have counted.

    Args:
        roles: The role objects of this process, by name; those that it does not know are passed over.
        max_series: Most label combinations of one metric.

    Attributes:
        log_problem: Why the log could not be used when it was asked last; empty when it answered.
    """

    def __init__(self, roles: Mapping[str, Any], max_series: int) -> None:
        self._roles = roles
        self._max_series = max_series
        self.log_problem = ""

    def describe(self) -> Iterable[Family]:
        """Promise nothing: which metrics there are depends on the roles."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Read everything once."""
        grouped = {m.LOG_UP: [Sample(m.LOG_UP, not self.log_problem)]}
        for sample in samples(self._roles):
            grouped.setdefault(sample.metric, []).append(sample)
        over = {metric: len(found) - self._max_series for metric, found in grouped.items()}
        grouped[m.SERIES_FOLDED] = [Sample(m.SERIES_FOLDED, n, (metric.name,)) for metric, n in over.items() if n > 0]
        for metric, found in grouped.items():
            yield family(metric, fold(metric, found, self._max_series))


def fold(metric: m.Metric, found: Sequence[Sample], most: int) -> list[Sample]:
    """Return at most *most* series and one more, `other`, that stands for all the rest."""
    if len(found) <= most:
        return list(found)
    kept, rest = list(found[:most]), [sample.value for sample in found[most:]]
    numbers = [value for value in rest if not isinstance(value, Distribution)]
    together: float | Distribution
    if metric.kind == "histogram":
        together = Distribution(metric.bounds)
        for value in rest:
            if isinstance(value, Distribution):
                together.merge(value)
    else:
        together = sum(numbers) if metric.adds_up else max(numbers)
    return [*kept, Sample(metric, together, (m.OTHER,) * len(metric.labels))]


def family(metric: m.Metric, found: Iterable[Sample]) -> Family:
    """Return the series of one metric as Prometheus has them."""
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for sample in found:
            if isinstance(sample.value, Distribution):
                buckets = [
                    ("+Inf" if bound == inf else str(bound), count) for bound, count in sample.value.cumulative()
                ]
                histogram.add_metric(sample.labels, buckets, sample.value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for sample in found:
        if not isinstance(sample.value, Distribution):
            family.add_metric(sample.labels, sample.value)
    return family


def samples(roles: Mapping[str, Any]) -> Iterator[Sample]:
    """Yield what the roles have counted, and whether they are ready."""
    waiting = missing(roles)
    for name, role in roles.items():
        yield Sample(m.ROLE_READY, name not in waiting, (name,))
        if name in _READERS:
            yield from _READERS[name](role)


def spread(*several: Distributions) -> Iterator[Sample]:
    """Yield a sample for each series of histograms."""
    for distributions in several:
        for labels, distribution in distributions.items():
            yield Sample(distributions.metric, distribution, labels)


def _shards(role: ShardRole) -> Iterator[Sample]:
    yield Sample(m.DEAD_LETTERS, role.measures.set_aside, ("shards",))
    yield from spread(*role.measures.distributions)
    for labels, count in sorted(role.measures.fallbacks.items()):
        yield Sample(m.FALLBACKS, count, labels)
    for state in role.breakers.states():
        yield from _breaker("shards", state.dependency, state.phase)
    yield from _state(role)
    for number, processor in sorted(role.processors.items()):
        shard, engine = (str(number),), processor.engine
        counters = engine.counters
        for metric, value in (
            (m.SHARD_READY, processor.ready.is_set() and not processor.stuck),
            (m.SHARD_STUCK, bool(processor.stuck)),
            (m.SHARD_SATURATED, engine.saturated),
            (m.SHARD_OPEN, engine.open_count),
            (m.SHARD_ACCEPTED, counters.accepted),
            (m.SHARD_DEGRADED, counters.degraded),
            (m.SHARD_REPEATED, counters.repeated),
            (m.SHARD_CONFLICTS, counters.conflicts),
            (m.SHARD_DEFERRED, counters.deferred),
            (m.SHARD_FORWARDED, counters.forwarded),
            (m.SHARD_REPLAYED, counters.replayed),
            (m.SHARD_SHORT_CIRCUITED, counters.short_circuited),
            (m.SHARD_IGNORED, counters.ignored),
            (m.SHARD_TRANSACTIONS, processor.transactions),
            (m.SHARD_WRITTEN, processor.written),
            (m.SHARD_RESTORED, processor.restored_records),
            (m.SHARD_RESTORE_SECONDS, processor.restored_s),
        ):
            yield Sample(metric, value, shard)
        for status, count in sorted(counters.finished.items()):
            yield Sample(m.SHARD_FINISHED, count, (*shard, status))
        for name, count in sorted(counters.shared_conflicts.items()):
            yield Sample(m.SHARD_SHARED_CONFLICTS, count, (*shard, name))


def _state(role: ShardRole) -> Iterator[Sample]:
    for number, processor in sorted(role.processors.items()):
        counters = processor.engine.cold.counters
        for metric, value in (
            (m.STATE_BYTES, processor.engine.state.size_bytes),
            (m.STATE_DIRTY, processor.keeper.flushed.dirty_bytes),
            (m.STATE_HITS, counters.hits),
            (m.STATE_MISSES, counters.misses),
            (m.STATE_EVICTED, counters.evicted),
            (m.STATE_TOMBSTONED, counters.tombstoned),
            (m.STATE_REPAIRED, counters.repaired),
        ):
            yield Sample(metric, value, (str(number),))
    yield Sample(m.STATE_IN_USE, role.room.used_bytes)
    yield Sample(m.STATE_LIMIT, role.room.limit_bytes)
    if role.reads:
        reads = role.reads[0].counters  # shared by all
        yield Sample(m.COLD_QUERIES, reads.reads)
        yield from spread(reads.took)
        yield Sample(m.COLD_AGENTS, reads.agents)
        yield Sample(m.COLD_FAILURES, reads.failures)
        yield Sample(m.COLD_WAITING, sum(map(len, role.reads)))


def _tools(role: ToolRole) -> Iterator[Sample]:
    yield from _queue("tools", role.queue)
    for guard in role.guards.values():
        yield from _guard("tools", guard)
    yield from spread(role.attempts)
    yield Sample(m.TOOL_OVERFLOWED, role.queue.overflowed)
    execution = role.execution
    for (tool, outcome), count in sorted(execution.counts.items()):
        yield Sample(m.TOOL_CALLS, count, (tool, outcome))
    for tool, places in execution.places.items():
        yield Sample(m.TOOL_RUNNING, places.taken, (tool,))
        yield Sample(m.TOOL_WAITING, places.waiting, (tool,))
        yield Sample(m.TOOL_RETRIES_DENIED, execution.budgets[tool].denied, (tool,))
    for metric, counts in ((m.TOOL_UNKNOWN, execution.unknown), (m.TOOL_ABANDONED, role.threads.abandoned)):
        for tool, count in sorted(counts.items()):
            yield Sample(metric, count, (tool,))


def _llm(role: LlmRole) -> Iterator[Sample]:
    yield from _queue("llm", role.queue)
    for pool in role.dispatcher.pools.values():
        yield from _guard("llm", pool.guard)
    yield from spread(*role.measures.distributions)
    for direction, tokens in role.measures.tokens.items():
        yield Sample(m.LLM_TOKENS, tokens, direction)
    for tenant_and_model, used in role.usage.used.items():
        yield Sample(m.USAGE_REQUESTS, used.requests, tenant_and_model)
        yield Sample(m.USAGE_INPUT, used.input_tokens, tenant_and_model)
        yield Sample(m.USAGE_OUTPUT, used.output_tokens, tenant_and_model)
        yield Sample(m.USAGE_COST, used.cost, tenant_and_model)
    for status in role.status():
        name = (status.name,)
        yield Sample(m.POOL_HELD, status.held, name)
        yield Sample(m.POOL_RUNNING, status.running, name)
        yield Sample(m.POOL_OLDEST, status.oldest_s, name)
        yield Sample(m.POOL_EXPECTED_WAIT, status.expected_wait_s, name)
        yield Sample(m.POOL_DOWN, bool(status.down), name)
        yield Sample(m.POOL_SENT, status.counts.sent, name)
        yield Sample(m.POOL_THROTTLED, status.counts.throttled, name)
        yield Sample(m.POOL_UNAVAILABLE, status.counts.unavailable, name)
        for key in status.keys:
            yield Sample(m.KEY_RUNNING, key.running, (status.name, key.key_name))
            yield Sample(m.KEY_OUT, key.out_for_s > 0, (status.name, key.key_name))
            yield Sample(m.KEY_COOLS, key.cools_for_s, (status.name, key.key_name))
            for bucket in key.buckets:
                labels = (status.name, key.key_name, bucket.quantity)
                yield Sample(m.BUCKET_AVAILABLE, bucket.available, labels)
                yield Sample(m.BUCKET_CAPACITY, bucket.capacity, labels)


def _memory(role: MemoryRole) -> Iterator[Sample]:
    for guard in role.guards:
        yield from _guard("memory", guard)
    yield Sample(m.SINK_READ, role.counts.read)
    yield Sample(m.SINK_WRITTEN, role.counts.written)
    yield Sample(m.SINK_CHANGED, role.counts.changed)
    yield Sample(m.DEAD_LETTERS, role.counts.set_aside, ("memory",))
    yield from spread(role.counts.flushes)
    yield Sample(m.SINK_FAILURES, role.counts.failures)
    yield Sample(m.SINK_DROPPED, role.dropped.invocations, ("invocations",))
    yield Sample(m.SINK_DROPPED, role.dropped.deleted, ("state",))


def _control(role: ControlRole) -> Iterator[Sample]:
    plane = role.plane
    for state in plane.states():
        yield from _breaker("control", state.dependency, state.phase)
    for (dependency, phase), count in sorted(plane.transitions.items()):
        yield Sample(m.BREAKER_TRANSITIONS, count, ("control", dependency, phase, "fleet"))
    yield Sample(m.CONTROL_UNREADABLE, plane.unreadable)
    if plane.report is not None:  # otherwise another process samples the log
        yield from _lag(plane.report)
    for lane, signal in sorted(plane.signals.items()):
        yield Sample(m.LANE_RETRY_AFTER, signal.retry_after_s, (lane,))
        for level in m.LEVELS:
            yield Sample(m.LANE_LEVEL, signal.level == level, (lane, level))


def _lag(report: LagReport) -> Iterator[Sample]:
    for stage in report.stages:
        if stage.kind in m.OPTIONAL_STAGES and not stage.consumed:
            continue  # a deployment without a memory sink; its "lag" would grow for ever
        for lag in stage.partitions:
            labels = (stage.name, str(lag.number))
            yield Sample(m.LAG_RECORDS, lag.unread, labels)
            yield Sample(m.LAG_SECONDS, lag.lag_s, labels)
            yield Sample(m.LAG_OPEN, lag.load.open, labels)
            yield Sample(m.LAG_ARRIVALS, lag.arrival_per_s, labels)
            yield Sample(m.LAG_DRAINED, lag.drain_per_s, labels)
            yield Sample(m.LAG_SILENT, lag.silent_s, labels)
    for agent, queue in sorted(report.queues.items(), key=lambda entry: -entry[1].depth):
        yield Sample(m.QUEUE_DEPTH, queue.depth, (agent,))
        yield Sample(m.QUEUE_OLDEST, report.oldest_s(agent), (agent,))
    yield Sample(m.QUEUE_UNCOUNTED, report.uncounted)


def _gateway(role: GatewayRole) -> Iterator[Sample]:
    for (route, status), count in sorted(role.responses.items()):
        yield Sample(m.GATEWAY_RESPONSES, count, (route, str(status)))
    yield Sample(m.GATEWAY_ADMISSIONS, role.admissions.admitted, ("admitted",))
    yield Sample(m.GATEWAY_ADMISSIONS, role.admissions.refused, ("refused",))
    yield Sample(m.GATEWAY_UNKNOWN, role.admissions.unknown)


def _queue(role: str, queue: OwnedQueue) -> Iterator[Sample]:
    yield Sample(m.QUEUE_OPEN, queue.open_calls, (role,))
    yield Sample(m.QUEUE_PARTITIONS, len(queue.working), (role,))
    yield Sample(m.DEAD_LETTERS, queue.set_aside, (role,))


def _breaker(role: str, dependency: str, now: str) -> Iterator[Sample]:
    for phase in m.PHASES:
        yield Sample(m.BREAKER_PHASE, now == phase, (role, dependency, phase))


def _guard(role: str, guard: Guard) -> Iterator[Sample]:
    yield from _breaker(role, guard.dependency, guard.phase)
    totals = guard.totals
    ended = {"ok": totals["calls"] - totals["failures"], "failed": totals["failures"]}
    for outcome, count in (ended | {name: totals[name] for name in ("slow", "short_circuited")}).items():
        yield Sample(m.BREAKER_CALLS, count, (role, guard.dependency, outcome))
    for (decided_by, phase), count in sorted(guard.transitions.items()):
        yield Sample(m.BREAKER_TRANSITIONS, count, (role, guard.dependency, phase, decided_by))


_READERS: Mapping[str, Callable[[Any], Iterator[Sample]]] = {
    "shards": _shards,
    "tools": _tools,
    "llm": _llm,
    "memory": _memory,
    "control": _control,
    "gateway": _gateway,
}
