"""How to reach Postgres, and in which bites the sink writes to it: one frozen model, validated once at the edge."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr

DSN_SETTING = "STREAMS_MEMORY__DSN"
"""The environment variable of `dsn`, for messages that tell a user what to change."""


class MemorySettings(BaseModel):
    """Connection to Postgres, and the sink's rhythm.

    Attributes:
        dsn: Connection string, as a URL or in key=value form. The tables live in a schema named like the namespace.
        dsns: Instead of *dsn*, several: shard *p* belongs to number *p mod n*. Their number and order are for good.
        migrate_at_start: Apply missing migrations when the role starts; otherwise it refuses to run without them.
        pool_size: Most connections of one process.
        connect_timeout_s: Bound on getting a connection.
        statement_timeout_s: Bound on each statement, kept by the server, and a little later by the client.
        batch_rows: Records that are read before they are written in one batch.
        flush_interval_s: Longest time that a record waits for a batch to fill.
        retry_ceiling_s: Longest pause between two attempts while Postgres is away.
        breaker_report_s: Time between two digests of what happened to Postgres, for the fleet's breaker.
        history_days: Days that finished invocations are kept in Postgres.
        deleted_days: Days that deleted records are kept there, marked, so that a late writer meets their version.
        retention_interval_s: Time between two looks for rows that are too old.
        retention_rows: Most rows that one transaction drops.
        group_instance_id: Makes the sink's membership static: restarted with the same one, it keeps its partitions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dsn: SecretStr = SecretStr("postgresql://postgres@127.0.0.1:5432/streams")
    dsns: tuple[SecretStr, ...] = Field(default=(), max_length=100)
    migrate_at_start: bool = True
    pool_size: int = Field(default=4, ge=1, le=100)
    connect_timeout_s: float = Field(default=5.0, ge=2, le=12)
    statement_timeout_s: float = Field(default=10.0, gt=0, le=300)
    batch_rows: int = Field(default=5_000, ge=1, le=100_000)
    flush_interval_s: float = Field(default=0.2, ge=0, le=60)
    retry_ceiling_s: float = Field(default=5.0, gt=0, le=300)
    breaker_report_s: float = Field(default=0.5, gt=0, le=60)
    history_days: float = Field(default=90.0, gt=0)
    deleted_days: float = Field(default=7.0, ge=1)
    retention_interval_s: float = Field(default=300.0, gt=0)
    retention_rows: int = Field(default=1_000, ge=1, le=100_000)
    group_instance_id: str | None = None

    @property
    def configured(self) -> bool:
        """Somebody has said where Postgres is; the default is a guess for one that is started by hand."""
        return "dsn" in self.model_fields_set or bool(self.dsns)

    def each(self) -> tuple[MemorySettings, ...]:
        """Return the settings of each database."""
        return tuple(self.model_copy(update={"dsn": dsn, "dsns": ()}) for dsn in self.dsns or (self.dsn,))
