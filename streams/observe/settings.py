"""What a process tells about itself: its logs, and where metrics and probes are asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal["debug", "info", "warning", "error", "critical"]


class ObserveSettings(BaseModel):
    """Settings of logs, metrics and probes.

    Attributes:
        port: Where `/metrics`, `/livez` and `/readyz` are served; 0 takes a free port, None serves nothing.
        host: Address to bind; metrics name agents and tools, so that the default is this machine only.
        log_level: Least severe entries that are written.
        log_format: `console` for people, `json` for one object a line; `auto` is `console` on a terminal.
        log_levels: Levels of single loggers and what is below them: `{"aiokafka": "warning"}`.
        max_series: Most label combinations of one metric in a scrape; those beyond it are left out and counted.
        request_timeout_s: Most seconds that a probe or scrape may take to be sent.
        max_connections: Probes and scrapes at a time; others are turned away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(None, ge=0, le=65_535)
    host: str = "127.0.0.1"
    log_level: Level = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    log_levels: dict[str, Level] = Field(default_factory=dict)
    max_series: int = Field(1_000, ge=1, le=100_000)
    request_timeout_s: float = Field(5.0, gt=0, le=60)
    max_connections: int = Field(64, ge=1, le=10_000)
