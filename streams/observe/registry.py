"""The complete list of metrics. Each row says its kind, its unit and what it means; the line below them, its name and
labels. What is not here is not exported.

Labels have few values: partitions, roles, statuses, and names that an app or its settings declare. Agent keys and
invocation IDs are none, and tenants only where their usage is counted, the first `llm.usage_tenants` of them. What
comes anyway is bounded twice: a histogram tells so many label values apart and counts the rest as `other`, and a scrape
folds what is beyond `ObserveSettings.max_series` into `other` too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

OTHER: Final = "other"
"""Value of every label of the series that stands for all beyond the bound."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        kind: `counter` only grows while the process lives (and its shard stays here); `gauge` is as of the scrape;
            `histogram` counts values by size, and only grows.
        unit: Of its value; `1 or 0` for yes or no.
        name: Without the `_total` that counters get, and the `_bucket`, `_sum` and `_count` of histograms.
        bounds: Of a histogram's buckets.
    """

    kind: Kind
    unit: str
    meaning: str
    name: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def adds_up(self) -> bool:
        """Series are summed when they are folded into one; ages and yes-or-no take the largest."""
        return self.kind != "gauge" or self.unit not in ("seconds", "1 or 0")

    @property
    def series(self) -> tuple[str, ...]:
        """Names under which a scrape has it, and queries ask for it."""
        match self.kind:
            case "counter":
                return (f"{self.name}_total",)
            case "histogram":
                return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
            case "gauge":
                return (self.name,)

    @property
    def help(self) -> str:
        """What a scrape says about it."""
        return f"{self.meaning} ({self.unit})"


PHASES: Final = ("closed", "open", "half-open", "forced-open", "forced-closed", "metrics-only")
"""Of a breaker."""

SHARD: Final = ("partition",)
LANE: Final = ("lane", "partition")
LEVELS: Final = ("open", "slow", "closed")
OPTIONAL_STAGES: Final = ("state-deltas", "results")
"""Topics that have a lag only where a memory sink reads them."""
KEY: Final = ("pool", "key")
USAGE: Final = ("tenant", "model")
BUCKET: Final = ("pool", "key", "quantity")

QUICK_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for what should take milliseconds."""
LONG_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 86_400.0)
"""Bounds for what waits for models, tools and people. Latency objectives are bounds of these: 1, 5, 30, 60 s."""
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0)
TOKENS: Final = (100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0, 300_000.0, 1_000_000.0)

# fmt: off

# -- the process -------------------------------------------------------------------------------------------------------
ROLE_READY = Metric(
    "gauge", "1 or 0", "The role has what it needs to work: see /readyz for what is missing",
    "streams_role_ready", ("role",))
LOG_UP = Metric(
    "gauge", "1 or 0", "Kafka answered within two seconds when this process asked it for the scrape",
    "streams_log_up")
SERIES_FOLDED = Metric(
    "gauge", "series", "Label combinations beyond max_series that this scrape has in the series `other`",
    "streams_series_folded", ("metric",))
DEAD_LETTERS = Metric(
    "counter", "records", "Set aside by the role: unreadable, refused, or the end of their process too often",
    "streams_dead_letters", ("role",))

# -- invocations, over all shards of the process -----------------------------------------------------------------------
INVOCATION_SECONDS = Metric(
    "histogram", "seconds", "From submission to result; outcome is the status, or degraded where a fallback stood in",
    "streams_invocation_seconds", ("agent", "outcome"), LONG_S)
INVOCATION_WAIT = Metric(
    "histogram", "seconds", "From submission (or the time submitted for) to the start of the handler",
    "streams_invocation_wait_seconds", ("agent",), LONG_S)
INVOCATION_TOKENS = Metric(
    "histogram", "tokens", "In and out of all model calls of an invocation that made one",
    "streams_invocation_tokens", ("agent",), TOKENS)
STEP_SECONDS = Metric(
    "histogram", "seconds", "From a handler's request to its outcome: ok, raised, or degraded for a fallback",
    "streams_step_seconds", ("kind", "name", "outcome"), LONG_S)
TRANSACTION_SECONDS = Metric(
    "histogram", "seconds", "To write and commit one transaction of a shard; every state write waits for one",
    "streams_transaction_seconds", (), QUICK_S)
TRANSACTION_RECORDS = Metric(
    "histogram", "records", "Written in one transaction of a shard",
    "streams_transaction_records", (), SIZES)
BATCH_RECORDS = Metric(
    "histogram", "records", "Taken up in one step of a shard",
    "streams_batch_records", (), SIZES)

# -- how far behind: the control role that samples the log has these for its namespace ----------------------------
LAG_RECORDS = Metric(
    "gauge", "records", "Written and not read yet; lane is a topic in which work waits, such as invocations",
    "streams_lag_records", LANE)
LAG_SECONDS = Metric(
    "gauge", "seconds", "Age of the oldest record that was not read yet, by the log's own timestamps",
    "streams_lag_seconds", LANE)
LAG_OPEN = Metric(
    "gauge", "records", "Read and not finished: under way, or waiting for their agent instance",
    "streams_lag_open_records", LANE)
LAG_ARRIVALS = Metric(
    "gauge", "records a second", "Written lately",
    "streams_lag_arrivals_per_second", LANE)
LAG_DRAINED = Metric(
    "gauge", "records a second", "Finished lately",
    "streams_lag_drained_per_second", LANE)
LAG_SILENT = Metric(
    "gauge", "seconds", "For which the consumer of the partition has not reported its position",
    "streams_lag_silent_seconds", LANE)
QUEUE_DEPTH = Metric(
    "gauge", "invocations", "Of the agent that wait: unread, or in the mailbox of their instance",
    "streams_queue_depth", ("agent",))
QUEUE_OLDEST = Metric(
    "gauge", "seconds", "Age of the oldest of them, since it was submitted",
    "streams_queue_oldest_seconds", ("agent",))
QUEUE_UNCOUNTED = Metric(
    "gauge", "invocations", "Unread ones that the meter has not come to yet; 0 means that the depths are exact",
    "streams_queue_uncounted")
LANE_LEVEL = Metric(
    "gauge", "1 or 0", "What producers of the lane were told last: open, slow or closed",
    "streams_lane_level", ("lane", "level"))
LANE_RETRY_AFTER = Metric(
    "gauge", "seconds", "After which producers of the lane were told to come back; 0 while it is open",
    "streams_lane_retry_after_seconds", ("lane",))

# -- shards ------------------------------------------------------------------------------------------------------------
SHARD_READY = Metric(
    "gauge", "1 or 0", "The shard is restored and reads its topics",
    "streams_shard_ready", SHARD)
SHARD_STUCK = Metric(
    "gauge", "1 or 0", "The shard ended with an error and is about to be tried again",
    "streams_shard_stuck", SHARD)
SHARD_SATURATED = Metric(
    "gauge", "1 or 0", "A bound is reached, so that new invocations wait on their topic",
    "streams_shard_saturated", SHARD)
SHARD_OPEN = Metric(
    "gauge", "invocations", "Live in the shard: running, waiting or parked",
    "streams_shard_open_invocations", SHARD)
SHARD_ACCEPTED = Metric(
    "counter", "invocations", "Taken up; repeated and refused ones are not among them",
    "streams_shard_accepted_invocations", SHARD)
SHARD_FINISHED = Metric(
    "counter", "invocations", "Ended, by the status of their result",
    "streams_shard_finished_invocations", (*SHARD, "status"))
SHARD_DEGRADED = Metric(
    "counter", "invocations", "Ended with a result for which at least one fallback stood in",
    "streams_shard_degraded_invocations", SHARD)
SHARD_REPEATED = Metric(
    "counter", "invocations", "Submitted again with the same ID and input, and not run again",
    "streams_shard_repeated_invocations", SHARD)
SHARD_CONFLICTS = Metric(
    "counter", "invocations", "Refused: their ID was used before with another input",
    "streams_shard_conflicting_invocations", SHARD)
SHARD_DEFERRED = Metric(
    "counter", "invocations", "Refused for now: the mailbox of their agent instance is full",
    "streams_shard_deferred_invocations", SHARD)
SHARD_FORWARDED = Metric(
    "counter", "records", "Sent on to the shard they belong to; their producer partitions differently",
    "streams_shard_forwarded_records", SHARD)
SHARD_REPLAYED = Metric(
    "counter", "handler runs", "Handlers that were run again over their journal",
    "streams_shard_replayed_handlers", SHARD)
SHARD_SHORT_CIRCUITED = Metric(
    "counter", "calls", "Answered by their fallback without being sent, because a breaker is open",
    "streams_shard_short_circuited_calls", SHARD)
FALLBACKS = Metric(
    "counter", "steps", "Of handlers, answered by the fallback of their tool or model, by what had gone wrong",
    "streams_fallbacks", ("kind", "name", "cause"))
STATE_BYTES = Metric(
    "gauge", "bytes", "State of agents that the shard has in memory",
    "streams_shard_state_bytes", SHARD)
STATE_DIRTY = Metric(
    "gauge", "bytes", "State that the shard has written and the sink has not",
    "streams_shard_state_dirty_bytes", SHARD)
STATE_HITS = Metric(
    "counter", "uses", "State was in memory when an invocation or a request needed it",
    "streams_shard_state_hits", SHARD)
STATE_MISSES = Metric(
    "counter", "uses", "It was not, and the store had to be read",
    "streams_shard_state_misses", SHARD)
STATE_EVICTED = Metric(
    "counter", "agents", "Whose state was evicted from memory",
    "streams_shard_state_evicted", SHARD)
STATE_TOMBSTONED = Metric(
    "counter", "records", "Of evicted state that have left the log",
    "streams_shard_state_tombstoned", SHARD)
STATE_REPAIRED = Metric(
    "counter", "records", "That the store had lost and that were written again from the log",
    "streams_shard_state_repaired", SHARD)
SHARD_SHARED_CONFLICTS = Metric(
    "counter", "writes", "To shared records of a name, refused because somebody had written since",
    "streams_shard_shared_conflicts", (*SHARD, "name"))
SHARD_IGNORED = Metric(
    "counter", "records", "Came for an invocation or a step that no longer waits for them",
    "streams_shard_ignored_records", SHARD)
SHARD_TRANSACTIONS = Metric(
    "counter", "transactions", "Committed",
    "streams_shard_transactions", SHARD)
SHARD_WRITTEN = Metric(
    "counter", "records", "Written in committed transactions; divided by those, the size of a batch",
    "streams_shard_written_records", SHARD)
SHARD_RESTORED = Metric(
    "gauge", "records", "Read to restore the shard when this process took it over",
    "streams_shard_restored_records", SHARD)
SHARD_RESTORE_SECONDS = Metric(
    "gauge", "seconds", "Time that this restore took",
    "streams_shard_restore_seconds", SHARD)

# -- queues of calls: tools and llm ------------------------------------------------------------------------------------
QUEUE_OPEN = Metric(
    "gauge", "calls", "Being worked on, or waiting in this process for a place",
    "streams_queue_open_calls", ("role",))
QUEUE_PARTITIONS = Metric(
    "gauge", "partitions", "Whose calls this process reads",
    "streams_queue_partitions", ("role",))

# -- tools -------------------------------------------------------------------------------------------------------------
TOOL_ATTEMPT_SECONDS = Metric(
    "histogram", "seconds", "One attempt of a tool in its worker; failed is what counts for the breaker, or ok",
    "streams_tool_attempt_seconds", ("tool", "outcome"), LONG_S)
TOOL_CALLS = Metric(
    "counter", "calls", "Answered by this worker, by what became of them: the result's status, or why it failed",
    "streams_tool_calls", ("tool", "outcome"))
TOOL_RUNNING = Metric(
    "gauge", "calls", "Of the tool, that have one of its places in this worker",
    "streams_tool_running_calls", ("tool",))
TOOL_WAITING = Metric(
    "gauge", "calls", "Of the tool, that wait in this worker for one of its places",
    "streams_tool_waiting_calls", ("tool",))
TOOL_OVERFLOWED = Metric(
    "gauge", "calls", "Beyond their tool's share of the look-ahead, waiting in the overflow lanes of this worker",
    "streams_tool_overflowed_calls")
TOOL_UNKNOWN = Metric(
    "gauge", "calls", "That wait because this worker does not have their tool: deploy it",
    "streams_tool_unknown_calls", ("tool",))
TOOL_ABANDONED = Metric(
    "gauge", "threads", "Of the tool, that have not returned although nobody waits for them",
    "streams_tool_abandoned_threads", ("tool",))
TOOL_RETRIES_DENIED = Metric(
    "counter", "retries", "And hedges of the tool, not made because its budget of retries was used up",
    "streams_tool_denied_retries", ("tool",))

# -- breakers ----------------------------------------------------------------------------------------------------------
BREAKER_PHASE = Metric(
    "gauge", "1 or 0", "The phase that holds for the role's calls to the dependency; for shards, the fleet's",
    "streams_breaker_phase", ("role", "dependency", "phase"))

BREAKER_CALLS = Metric(
    "counter", "calls", "Guarded by the role, as they ended: ok, failed, slow (ok or failed), short_circuited",
    "streams_breaker_calls", ("role", "dependency", "outcome"))
BREAKER_TRANSITIONS = Metric(
    "counter", "transitions", "Phases entered, as the role met them, and whether fleet or process had decided",
    "streams_breaker_transitions", ("role", "dependency", "phase", "decided_by"))
CONTROL_UNREADABLE = Metric(
    "counter", "records", "Of outcomes, that are neither a digest nor an order",
    "streams_control_unreadable_records")

# -- model pools -------------------------------------------------------------------------------------------------------
POOL_HELD = Metric(
    "gauge", "requests", "Held until the limits of a key allow them",
    "streams_llm_held_requests", ("pool",))
POOL_RUNNING = Metric(
    "gauge", "requests", "Sent to the provider and not answered yet",
    "streams_llm_running_requests", ("pool",))
POOL_OLDEST = Metric(
    "gauge", "seconds", "Age of the request that is held longest",
    "streams_llm_oldest_held_seconds", ("pool",))
POOL_EXPECTED_WAIT = Metric(
    "gauge", "seconds", "For which a request that comes now will probably be held; infinite when nothing tells",
    "streams_llm_expected_wait_seconds", ("pool",))
POOL_DOWN = Metric(
    "gauge", "1 or 0", "The pool cannot answer: its breaker is open, or no key is accepted",
    "streams_llm_pool_down", ("pool",))
POOL_SENT = Metric(
    "counter", "calls", "Made to the provider",
    "streams_llm_sent_calls", ("pool",))
POOL_THROTTLED = Metric(
    "counter", "calls", "Answered with 429; with limits that are right there are none",
    "streams_llm_throttled_calls", ("pool",))
POOL_UNAVAILABLE = Metric(
    "counter", "calls", "Failed by an error of the endpoint or a timeout",
    "streams_llm_unavailable_calls", ("pool",))
LLM_TOKENS = Metric(
    "counter", "tokens", "Used by answered requests, by the pool that was asked first; direction is input or output",
    "streams_llm_tokens", ("pool", "direction"))
USAGE_REQUESTS = Metric(
    "counter", "requests", "Answered for a tenant by a model of a provider",
    "streams_llm_usage_requests", USAGE)
USAGE_INPUT = Metric(
    "counter", "tokens", "That went in",
    "streams_llm_usage_input_tokens", USAGE)
USAGE_OUTPUT = Metric(
    "counter", "tokens", "That came out",
    "streams_llm_usage_output_tokens", USAGE)
USAGE_COST = Metric(
    "counter", "currency of the price table", "What they cost",
    "streams_llm_usage_cost", USAGE)
LLM_HELD_SECONDS = Metric(
    "histogram", "seconds", "For which a request was held because of limits and outages",
    "streams_llm_held_seconds", ("pool",), LONG_S)
LLM_CALL_SECONDS = Metric(
    "histogram", "seconds", "The provider's last call for a request; all its time where none was answered",
    "streams_llm_call_seconds", ("pool", "outcome"), LONG_S)
KEY_OUT = Metric(
    "gauge", "1 or 0", "The provider does not accept the key, which is left out for some minutes",
    "streams_llm_key_out", KEY)
KEY_RUNNING = Metric(
    "gauge", "calls", "Of the key, under way",
    "streams_llm_key_running_calls", KEY)
KEY_COOLS = Metric(
    "gauge", "seconds", "Until the key is used again after the provider sent it away",
    "streams_llm_key_cooling_seconds", KEY)
BUCKET_AVAILABLE = Metric(
    "gauge", "requests or tokens", "Left in the key's bucket; negative when more was used than reserved",
    "streams_llm_bucket_available", BUCKET)
BUCKET_CAPACITY = Metric(
    "gauge", "requests or tokens", "That the key's bucket holds when full",
    "streams_llm_bucket_capacity", BUCKET)

# -- memory ------------------------------------------------------------------------------------------------------------
SINK_READ = Metric(
    "counter", "rows", "Decoded from the log",
    "streams_memory_read_rows")
SINK_WRITTEN = Metric(
    "counter", "rows", "Sent to Postgres, one for each record that changed in a batch",
    "streams_memory_written_rows")
SINK_CHANGED = Metric(
    "counter", "rows", "Changed in Postgres; the others met something newer, or themselves",
    "streams_memory_changed_rows")
SINK_FLUSH = Metric(
    "histogram", "seconds", "To write one batch to Postgres, waits for Postgres included",
    "streams_memory_flush_seconds", (), LONG_S)
SINK_FAILURES = Metric(
    "counter", "attempts", "Failed because Postgres was away",
    "streams_memory_failed_attempts")
SINK_DROPPED = Metric(
    "counter", "rows", "Dropped from Postgres because they were too old: finished invocations, deleted records",
    "streams_memory_dropped_rows", ("table",))

# -- evicted state, read by shards -------------------------------------------------------------------------------------
COLD_QUERIES = Metric(
    "counter", "queries", "Reads of evicted state and comparisons with it",
    "streams_cold_read_queries")
COLD_SECONDS = Metric(
    "histogram", "seconds", "Of one of them: what a miss waits for, beside the collecting of others",
    "streams_cold_read_query_seconds", (), QUICK_S)
COLD_AGENTS = Metric(
    "counter", "agents", "Whose state was read",
    "streams_cold_read_agents")
COLD_FAILURES = Metric(
    "counter", "attempts", "Failed because the store was away, or had lost what it had",
    "streams_cold_read_failed_attempts")
COLD_WAITING = Metric(
    "gauge", "agents", "Whose state waits to be read",
    "streams_cold_read_waiting")
STATE_IN_USE = Metric(
    "gauge", "bytes", "State in memory of all shards of the process",
    "streams_state_cache_bytes")
STATE_LIMIT = Metric(
    "gauge", "bytes", "What that may be (shards.cache_bytes); more stays only while the store does not have it",
    "streams_state_cache_limit_bytes")

# -- gateway -----------------------------------------------------------------------------------------------------------
GATEWAY_RESPONSES = Metric(
    "counter", "responses", "Given, by kind of request and HTTP status",
    "streams_gateway_responses", ("route", "status"))
GATEWAY_ADMISSIONS = Metric(
    "counter", "decisions", "Of backpressure about invocations that came in here: admitted or refused",
    "streams_gateway_admissions", ("decision",))
GATEWAY_UNKNOWN = Metric(
    "counter", "decisions", "Made without a valid signal of the control role, whatever they were",
    "streams_gateway_unknown_admissions")

# fmt: on

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this module."""
