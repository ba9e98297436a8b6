"""What a write can meet besides an absent store. Apart from psycopg, so that the sink runs without it in simulation."""

from __future__ import annotations

from streams.errors import StoreError


class Contended(StoreError):
    """Another writer was in the way; the same write may succeed now."""


class RowRefused(StoreError):
    """The store will never take a value of this write."""
