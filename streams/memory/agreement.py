"""Do log and Postgres say the same? Decided record by record, from versions and digests. Pure.

The log is the truth. Postgres may be behind it where the sink has not been yet (at or above its flush watermark), may
hold more (what compaction has dropped), and may hold something newer than a record that was read (a later one follows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import md5
from typing import Literal

from streams.records.state import StateDelta

Verdict = Literal["agrees", "newer in postgres", "waits for the sink", "missing", "behind", "differs"]
WRONG: frozenset[Verdict] = frozenset({"missing", "behind", "differs"})
MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Kept:
    """What Postgres has of a record.

    Attributes:
        digest: MD5 of the value in hex, as Postgres computes it; None for a deleted record.
    """

    epoch: int
    sequence: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class Logged:
    """What the log has of a record, and where."""

    delta: StateDelta
    partition: int
    offset: int

    @property
    def name(self) -> tuple[str, str]:
        """Owner and record."""
        return self.delta.owner, self.delta.record


def digest_of(value: bytes | None) -> str | None:
    """Return what Postgres says of a value with `md5(value)`."""
    return None if value is None else md5(value, usedforsecurity=False).hexdigest()


def compare(logged: Logged, kept: Kept | None, watermark: int) -> Verdict:
    """Return how Postgres stands to one record of the log.

    Args:
        watermark: Offset below which the sink has written everything of the record's partition.
    """
    delta = logged.delta
    if kept is None or (kept.epoch, kept.sequence) < (delta.epoch, delta.sequence):
        if logged.offset >= watermark:
            return "waits for the sink"
        return "missing" if kept is None else "behind"
    if (kept.epoch, kept.sequence) > (delta.epoch, delta.sequence):
        return "newer in postgres"
    return "agrees" if kept.digest == digest_of(None if delta.deleted else delta.value) else "differs"


@dataclass(slots=True)
class Report:
    """What a comparison has found so far; its memory does not grow with what is compared.

    Attributes:
        examples: The first records that are wrong, with what is wrong.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def take(self, records: Iterable[Logged], kept: Mapping[tuple[str, str], Kept], watermark: int) -> None:
        """Compare some records of one partition."""
        for logged in records:
            verdict = compare(logged, kept.get(logged.name), watermark)
            self.counts[verdict] += 1
            if verdict in WRONG and len(self.examples) < MOST_EXAMPLES:
                owner, record = logged.name
                place = f"partition {logged.partition} offset {logged.offset}"
                what = verdict if verdict == "differs" else f"is {verdict}"
                self.examples.append(f"{owner}.{record} {what} in Postgres ({place})")

    @property
    def wrong(self) -> int:
        """Records that Postgres should have and has not, or has otherwise."""
        return sum(self.counts[verdict] for verdict in WRONG)
