"""The filter of agents whose state may not be in the log any more: journaled, so that the next owner knows them too.

A scalable Bloom filter (Almeida et al., 2007) in generations, each twice as large as the one before. A generation is
split into pages, each a small filter of its own for the agents that hash to it, so that adding some agents rewrites
some small journal records and not megabytes. It takes 2 to 4 MB for a million agents. Of agents that were never added,
0.12 % are taken for known by each full generation: 1.2 % when all ten are full (18.6 million agents in one
shard). Beyond that, or with a page missing, it says "perhaps" to everything: new agents then cost a read each, and
nothing is ever wrongly new.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import zip_longest

from streams.records import encode
from streams.records.journal import EvictedPage, EvictedSummary

PAGE_BYTES = 512
FIRST_PAGES = 64
GENERATIONS = 10
PROBES = 10
AGENTS_PER_PAGE = 284
"""14.4 bits each: with ten probes about one agent in a thousand is wrongly taken for known by a full page."""

SUMMARY_KEY = b"\x00evicted"
_PAGE_BITS = PAGE_BYTES * 8


class EvictedFilter:
    """Which agents may have state that only the store has.

    Attributes:
        broken: Why it cannot be relied on and says "perhaps" to everything; empty when it can.
    """

    def __init__(self) -> None:
        self.broken = ""
        self._generations: list[bytearray] = []
        self._agents: list[int] = []
        self._dirty: set[tuple[int, int]] = set()
        self._changed = False
        self._written: list[set[int]] = []

    def __len__(self) -> int:
        """Agents that were added; those that seemed to be in it already are not among them."""
        return sum(self._agents)

    @property
    def size_bytes(self) -> int:
        """Bytes of all generations."""
        return sum(map(len, self._generations))

    def may_contain(self, owner: str) -> bool:
        """Tell whether *owner* was added; rarely also for one that was not."""
        if self.broken:
            return True
        if not self._generations:
            return False
        hashed = _hash(owner)
        return any(_contains(bits, hashed) for bits in reversed(self._generations))

    def add(self, owner: str) -> None:
        """Add *owner*; beyond the last generation's room the filter is outgrown (`broken`)."""
        if self.may_contain(owner):
            return
        if not self._agents or self._agents[-1] >= _room(len(self._agents) - 1):
            if len(self._generations) >= GENERATIONS:
                self._agents[-1] += 1  # one more than there is room for: that is how the next owner knows
                self._changed, self.broken = True, self._outgrown()
                return
            self._begin()
        generation = len(self._generations) - 1
        bits = self._generations[generation]
        page, at, step = _place(_hash(owner), len(bits) // PAGE_BYTES)
        for _ in range(PROBES):
            at = (at + step) % _PAGE_BITS
            bits[page * PAGE_BYTES + (at >> 3)] |= 1 << (at & 7)
        self._agents[generation] += 1
        self._dirty.add((generation, page))
        self._changed = True

    def writes(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of the journal records that bring the log up to date."""
        if not self._changed:
            return
        for generation, page in sorted(self._dirty):
            start = page * PAGE_BYTES
            bits = bytes(self._generations[generation][start : start + PAGE_BYTES])
            self._written[generation].add(page)
            yield page_key(generation, page), encode(EvictedPage(generation, page, bits))
        self._dirty.clear()
        self._changed = False
        yield SUMMARY_KEY, encode(EvictedSummary(tuple(self._agents), tuple(map(len, self._written))))

    def restore(self, page: EvictedPage) -> None:
        """Take a page as it was journaled; `finish` once all are here."""
        while len(self._generations) <= page.generation:
            self._begin()
        start = page.number * PAGE_BYTES
        self._generations[page.generation][start : start + PAGE_BYTES] = page.bits
        self._written[page.generation].add(page.number)

    def finish(self, summary: EvictedSummary | None) -> None:
        """Check that no page is missing."""
        there = [len(pages) for pages in self._written]
        wanted = list(summary.pages) if summary else []
        for generation, (found, known) in enumerate(zip_longest(there, wanted, fillvalue=0)):
            if found < known:
                self.broken = (
                    f"{known - found} of {known} pages of generation {generation} are missing from the journal; "
                    "every agent that is not in memory is read"
                )
        if summary is not None:
            self._agents[: len(summary.agents)] = summary.agents
            if len(self._agents) == GENERATIONS and self._agents[-1] > _room(GENERATIONS - 1):
                self.broken = self._outgrown()

    def _outgrown(self) -> str:
        return f"outgrown by {len(self):,} agents; every agent that is not in memory is read"

    def _begin(self) -> None:
        self._generations.append(bytearray(_pages(len(self._generations)) * PAGE_BYTES))
        self._agents.append(0)
        self._written.append(set())


def page_key(generation: int, page: int) -> bytes:
    """Return the journal key of a page."""
    return b"%b\x00%d\x00%d" % (SUMMARY_KEY, generation, page)


def _pages(generation: int) -> int:
    return FIRST_PAGES << generation


def _room(generation: int) -> int:
    return _pages(generation) * AGENTS_PER_PAGE


def _hash(owner: str) -> int:
    return int.from_bytes(blake2b(owner.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "little")


def _place(hashed: int, pages: int) -> tuple[int, int, int]:
    """Return page, first bit and distance of the probes: double hashing within the page."""
    return (hashed & 0xFFFFFFFFFFFF) % pages, (hashed >> 48) & 0xFFFF, (hashed >> 80) | 1


def _contains(bits: bytearray, hashed: int) -> bool:
    page, at, step = _place(hashed, len(bits) // PAGE_BYTES)
    start = page * PAGE_BYTES
    for _ in range(PROBES):
        at = (at + step) % _PAGE_BITS
        if not bits[start + (at >> 3)] >> (at & 7) & 1:
            return False
    return True
