"""The complete list of metrics. Each row says its kind, its unit and what it means; the line below them, its name and
labels. What is not here is not exported.

Labels have few values: partitions, roles, statuses, and names that an app or its settings declare. Agent keys,
invocation IDs and tenants are none, and `ObserveSettings.max_series` bounds what comes anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        kind: `counter` only grows while the process lives (and its shard stays here); `gauge` is as of the scrape.
        unit: Of its value; `1 or 0` for yes or no.
        name: Without the `_total` that counters get.
    """

    kind: Kind
    unit: str
    meaning: str
    name: str
    labels: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """What a scrape says about it."""
        return f"{self.meaning} ({self.unit})"


PHASES: Final = ("closed", "open", "half-open", "forced-open", "forced-closed", "metrics-only")
"""Of a breaker."""

SHARD: Final = ("partition",)
KEY: Final = ("pool", "key")
BUCKET: Final = ("pool", "key", "quantity")

# fmt: off

# -- the process -------------------------------------------------------------------------------------------------------
ROLE_READY = Metric(
    "gauge", "1 or 0", "The role has what it needs to work: see /readyz for what is missing",
    "streams_role_ready", ("role",))
SERIES_DROPPED = Metric(
    "gauge", "series", "Label combinations beyond max_series that this scrape left out",
    "streams_series_dropped", ("metric",))

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

# -- breakers ----------------------------------------------------------------------------------------------------------
BREAKER_PHASE = Metric(
    "gauge", "1 or 0", "The phase that holds for the role's calls to the dependency",
    "streams_breaker_phase", ("role", "dependency", "phase"))

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
SINK_SET_ASIDE = Metric(
    "counter", "records", "Refused by Postgres or unreadable, and now in dead-letters",
    "streams_memory_set_aside_records")
SINK_FAILURES = Metric(
    "counter", "attempts", "Failed because Postgres was away",
    "streams_memory_failed_attempts")

# -- gateway -----------------------------------------------------------------------------------------------------------
GATEWAY_RESPONSES = Metric(
    "counter", "responses", "Given, by kind of request and HTTP status",
    "streams_gateway_responses", ("route", "status"))

# fmt: on

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this module."""
