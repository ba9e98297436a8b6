"""How a client submits and waits."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ClientSettings(BaseModel):
    """Settings of `Client`.

    Attributes:
        default_deadline_s: Deadline of an invocation that names none.
        query_timeout_s: Seconds to wait for a shard's answer to a query.
        max_wait_s: Most seconds that `submit(wait=True)` waits for a lane to open.
        max_waiting: Submissions of one client that may wait so; the next one raises `TooManyWaiting`.
        max_waiting_bytes: Size of their inputs together, likewise.
        without_signal: What a submission does while nobody says how the lane is (the control role is away): `publish`,
            warned of once and counted, or `hold` back until there is a signal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_deadline_s: float = Field(3_600.0, gt=0)
    query_timeout_s: float = Field(10.0, gt=0)
    max_wait_s: float = Field(600.0, gt=0)
    max_waiting: int = Field(10_000, ge=1)
    max_waiting_bytes: int = Field(64_000_000, ge=1)
    without_signal: Literal["publish", "hold"] = "publish"
