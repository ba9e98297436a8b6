"""Version vectors of state records: who wrote how often. Pure.

One counter for each writer (an agent ID, a client's name, an operator's). All writes of a record pass the one shard
that owns it, so its versions follow each other and a write is checked by equality alone; what the vector adds to a
number is who was missed, and that a version of another history (a log restored from a backup, a version that was made
up) is told from an old one.

**Pruning.** A vector names at most `MAX_WRITERS` writers, in the order of their last write. The write that would make
it more folds the writer that has not written for the longest into the counter of `OTHERS`. So the sum of all counters
is always the number of writes, and two versions of one record are never the same. What is lost: a folded writer is
counted among the others and not named; and of two histories that parted, one that has folded since may be taken for a
successor of the other. A successor is never taken for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MAX_WRITERS = 16

OTHERS = ""
"""Stands for all writers that were folded; no writer has an empty name."""

Relation = Literal["equal", "newer", "older", "concurrent"]


def advance(vector: Mapping[str, int], writer: str, *, most: int = MAX_WRITERS) -> dict[str, int]:
    """Return the version after one more write of *writer*; it stands last, as the latest."""
    after = {name: count for name, count in vector.items() if name != writer}
    after[writer] = vector.get(writer, 0) + 1
    while len(after) - (OTHERS in after) > most:
        oldest = next(name for name in after if name != OTHERS)
        after[OTHERS] = after.get(OTHERS, 0) + after.pop(oldest)
    return after


def relate(one: Mapping[str, int], other: Mapping[str, int]) -> Relation:
    """Tell what *one* is to *other*."""
    if dict(one) == dict(other):
        return "equal"
    if _precedes(one, other):
        return "older"
    return "newer" if _precedes(other, one) else "concurrent"


def _precedes(old: Mapping[str, int], new: Mapping[str, int]) -> bool:
    """Tell whether every write that *old* has counted can be among those of *new*."""
    folded = new.get(OTHERS, 0) - old.get(OTHERS, 0)
    gone = sum(max(0, count - new.get(name, 0)) for name, count in old.items() if name != OTHERS)
    return folded >= 0 and gone <= folded


@dataclass(frozen=True, slots=True)
class Missed:
    """Whose writes a writer has not seen.

    Attributes:
        writers: By name, latest first.
        others: Writes of those that are not named any more.
    """

    writers: tuple[str, ...]
    others: int = 0

    def __str__(self) -> str:
        names = list(self.writers)
        if self.others:
            names.append(f"{self.others} by others")
        return ", ".join(names) or "nobody"


def missed(seen: Mapping[str, int], current: Mapping[str, int]) -> Missed:
    """Return whose writes are in *current* and not in *seen*."""
    writers: list[str] = []
    named = 0
    for name, count in current.items():
        before = seen.get(name, 0)
        if name != OTHERS and count != before:
            # Fewer than were seen: it was folded in between, and has written again.
            writers.append(name)
            named += count - before if count > before else count
    unnamed = sum(current.values()) - sum(seen.values()) - named
    return Missed(tuple(reversed(writers)), max(0, unnamed))
