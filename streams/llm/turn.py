"""What passes between a request that waits and its pool: who waits, leave to make a call, and why there is none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from streams.breakers.guard import Admitted
from streams.llm.scheduler import Grant


class Down(Exception):
    """The pool cannot answer now: its endpoint's breaker is open, or no key is accepted."""


class Expired(Exception):
    """The deadline passed before the request had its turn."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for a turn, and for how long once the pool is down."""

    future: asyncio.Future[Turn]
    hold_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """Leave to make one call; hand it to `Pool.call`.

    Attributes:
        down_s: How long the pool was down while the request waited.
    """

    grant: Grant[Waiter]
    admitted: Admitted
    down_s: float
