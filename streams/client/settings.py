"""How a client submits and waits."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ClientSettings(BaseModel):
    """Settings of `Client`.

    Attributes:
        default_deadline_s: Deadline of an invocation that names none.
        query_timeout_s: Seconds to wait for a shard's answer to a query.
        max_wait_s: Most seconds that `submit(wait=True)` waits for a lane to open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_deadline_s: float = Field(3_600.0, gt=0)
    query_timeout_s: float = Field(10.0, gt=0)
    max_wait_s: float = Field(600.0, gt=0)
