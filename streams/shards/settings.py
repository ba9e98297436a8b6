"""How a process works its shards."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from streams.shards.effects import ShardLimits


class ShardSettings(BaseModel):
    """Settings of the role `shards`.

    Attributes:
        max_working: Invocations of a shard with a tool or LLM step out; beyond it the shard pauses `invocations`.
        max_live: Invocations that a shard keeps, waiting ones included; likewise.
        max_mailbox: Invocations that may wait for one agent instance; beyond it they are answered `deferred`.
        max_hot: Handlers that a shard keeps in memory between completions.
        batch_records: Records of step results, inbox and signals taken at a time.
        bite_records: Invocations taken at a time.
        batch_bytes: Bytes after which a transaction takes no more.
        max_commits_per_s: Transactions a second in one process beyond which shards wait for larger batches,
            unless hardly anything is at work.
        dedup_s: Seconds for which a finished invocation is remembered.
        dedup_count: Finished invocations that a shard remembers.
        cache_bytes: What agents' state may take in the memory of one process, over all its shards. Beyond it, what the
            store has is evicted, least recently used first; where no `memory.dsn` is set nothing is.
        cold_read_linger_s: Seconds for which reads of evicted state are collected into one query.
        cold_read_agents: Most agents of one query.
        tombstone_after_s: Seconds for which evicted state stays in the log after it was flushed: a failover of Postgres
            that has lost its last commits is mended from there.
        sweep_interval_s: Seconds between two passes that look for what may leave the log.
        flush_check_s: Seconds between two looks at how far the sink has come.
        results_as: Encoding of the result topic.
        trim_interval_s: Seconds between deletions of consumed work that is older than the history.
        blocked_warning_s: Seconds in one step after which the handler's stack is logged.
        blocked_exit_s: Seconds in one step after which the process is ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_working: int = Field(1_000, ge=1)
    max_live: int = Field(100_000, ge=1)
    max_mailbox: int = Field(1_000, ge=1)
    max_hot: int = Field(5_000, ge=1)
    batch_records: int = Field(2_000, ge=1)
    bite_records: int = Field(200, ge=1)
    batch_bytes: int = Field(4_000_000, ge=1)
    max_commits_per_s: int = Field(200, ge=1)
    dedup_s: float = Field(86_400.0, ge=0)
    dedup_count: int = Field(50_000, ge=0)
    cache_bytes: int = Field(256 * 1024 * 1024, ge=1)
    cold_read_linger_s: float = Field(0.002, ge=0, le=1)
    cold_read_agents: int = Field(500, ge=1, le=10_000)
    tombstone_after_s: float = Field(86_400.0, ge=0)
    sweep_interval_s: float = Field(600.0, gt=0)
    flush_check_s: float = Field(1.0, gt=0, le=60)
    results_as: Literal["avro", "json"] = "avro"
    trim_interval_s: float = Field(3_600.0, gt=0)
    blocked_warning_s: float = Field(1.0, gt=0)
    blocked_exit_s: float = Field(60.0, gt=0)

    def limits(self, max_payload_bytes: int) -> ShardLimits:
        """Return the bounds that the engine keeps."""
        return ShardLimits(
            max_working=self.max_working,
            max_live=self.max_live,
            max_mailbox=self.max_mailbox,
            max_hot=self.max_hot,
            dedup_s=self.dedup_s,
            dedup_count=self.dedup_count,
            max_payload_bytes=max_payload_bytes,
        )
