"""In what order held requests should go: fair between tenants, by urgency and age within one. Pure.

Tenants are compared by virtual token counters: what each has been served, divided by its weight, and who has the least
is next (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). A tenant that comes back from a pause
starts where the others are, so that nobody saves up. Within a tenant a priority is a head start in seconds, not a wall:
urgent work overtakes, and what waits long enough is overtaken no more.

Requests are kept in lines by size (powers of two of their tokens), so that whoever decides can look past a big one that
does not fit yet without looking at everything. All operations cost O(log n).
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streams.llm.usage import Usage

T = TypeVar("T")

HEAD_START_S: Mapping[str, float] = {"high": 60.0, "normal": 0.0, "low": -600.0}
"""How much earlier than it did a request counts as having arrived."""

IDLE_TENANTS = 1_024
"""Tenants remembered before those without work are looked through."""


@dataclass(slots=True, eq=False)
class Held(Generic[T]):
    """A request that waits for its turn.

    Attributes:
        item: Whatever belongs to it.
        estimate: Tokens that it may use.
        arrived: When it came first; it keeps its age when it comes back after a failed call.
        deadline: When nobody waits for it any more.
        added: When it was put into the queue.
        passed: Tokens of requests that went before it although it was their better in the order.
        weight: What its tenant counted for when it was sent.
    """

    item: T
    tenant: str
    priority: str
    estimate: Usage
    arrived: float
    deadline: float
    added: float = 0.0
    passed: int = 0
    weight: float = 1.0

    @property
    def size(self) -> int:
        """What it counts for between tenants: its tokens, and one for the request."""
        return self.estimate.total_tokens + 1


@dataclass(slots=True, eq=False)
class _Tenant(Generic[T]):
    name: str
    weight: float
    counter: float
    held: int = 0
    tokens: int = 0
    running: int = 0
    lines: dict[int, _Line[T]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Line(Generic[T]):
    """Requests of one tenant and about one size, the one to go first on top; some may have left."""

    tenant: _Tenant[T]
    heap: list[tuple[float, int, Held[T]]] = field(default_factory=list)
    version: int = 0
    left: int = 0


class FairQueue(Generic[T]):
    """Holds requests; see the module.

    Args:
        weights: Of tenants that count for more or less than 1.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._parts: dict[str, float] = {}
        self._tenants: dict[str, _Tenant[T]] = {}
        self._sizes: dict[int, list[tuple[float, int, int, _Line[T]]]] = {}
        self._held: OrderedDict[Held[T], None] = OrderedDict()
        self._deadlines: list[tuple[float, int, Held[T]]] = []
        self._numbers = itertools.count()
        self._virtual = 0.0
        self._largest = 0.0
        self._sweep_at = IDLE_TENANTS

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, held: Held[T]) -> bool:
        return held in self._held

    def __iter__(self) -> Iterator[Held[T]]:
        """Every request, the one added first at the beginning."""
        return iter(self._held)

    def add(self, held: Held[T], now: float) -> None:
        """Put a request in."""
        tenant = self._tenant(held.tenant)
        if not tenant.held:
            tenant.counter = max(tenant.counter, self._virtual)
        tenant.held += 1
        tenant.tokens += held.size
        held.added = now
        self._held[held] = None
        number = next(self._numbers)
        heapq.heappush(self._deadlines, (held.deadline, number, held))
        size = held.size.bit_length()
        line = tenant.lines.get(size)
        rank = held.arrived - HEAD_START_S.get(held.priority, 0.0)
        if line is None:
            line = tenant.lines[size] = _Line(tenant)
            line.heap.append((rank, number, held))
            self._announce(size, line)
        else:
            heapq.heappush(line.heap, (rank, number, held))

    def remove(self, held: Held[T]) -> None:
        """Take a request out, whatever its place.

        Raises:
            KeyError: It is not here.
        """
        del self._held[held]
        tenant = self._tenants[held.tenant]
        tenant.held -= 1
        tenant.tokens -= held.size
        line = tenant.lines[held.size.bit_length()]
        line.left += 1
        # What leaves from the middle stays where it is until it comes up; not for ever.
        if line.left > 32 and line.left > len(line.heap) // 2:
            line.heap = [entry for entry in line.heap if entry[2] in self._held]
            heapq.heapify(line.heap)
            line.left = 0
        if len(self._deadlines) > 2 * len(self._held) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2] in self._held]
            heapq.heapify(self._deadlines)

    def heads(self) -> list[Held[T]]:
        """Return the first request of each size, in the order in which they should go."""
        heads: list[tuple[float, float, int, Held[T]]] = []
        for size in tuple(self._sizes):
            if (first := self._head(size)) is not None:
                counter, (rank, number, held) = first
                heads.append((counter, rank, number, held))
        if len(heads) > 1:
            heads.sort(key=lambda head: head[:3])
        return [head[3] for head in heads]

    def serve(self, held: Held[T], *, first: bool = True) -> None:
        """Take a request out to be sent, and count it for its tenant.

        Args:
            first: It was the first of all in the order, not one that went past another.
        """
        self.remove(held)
        tenant = self._tenants[held.tenant]
        if first:
            self._virtual = max(self._virtual, tenant.counter)
        tenant.running += 1
        held.weight = tenant.weight * self._parts.get(held.tenant, 1.0)
        share = held.size / held.weight
        tenant.counter += share
        self._largest = max(self._largest, share)

    def settle(self, held: Held[T], used_tokens: int) -> None:
        """Correct what a served request counts for, now that it is over."""
        tenant = self._tenants[held.tenant]
        tenant.running -= 1
        difference = (used_tokens + 1 - held.size) / held.weight
        tenant.counter += difference
        if difference < 0:
            for size, line in tenant.lines.items():
                self._announce(size, line)

    def next_deadline(self) -> float:
        """Return the earliest deadline; infinite when nothing is held."""
        while self._deadlines and self._deadlines[0][2] not in self._held:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def due(self) -> Held[T] | None:
        """Return the request with the earliest deadline."""
        return self._deadlines[0][2] if self.next_deadline() < float("inf") else None

    def oldest(self) -> Held[T] | None:
        """Return the request that was added first."""
        return next(iter(self._held), None)

    def waiting(self) -> dict[str, int]:
        """Return the tokens that wait, by tenant; those of most first."""
        found = [tenant for tenant in self._tenants.values() if tenant.held]
        return {tenant.name: tenant.tokens for tenant in sorted(found, key=lambda one: -one.tokens)}

    def set_parts(self, parts: Mapping[str, float]) -> None:
        """Say what part of each tenant's work waits here: it counts for that much of its weight, the rest elsewhere.

        Args:
            parts: Above 0, at most 1; a tenant that is not named is here alone.
        """
        self._parts = dict(parts)

    def _tenant(self, name: str) -> _Tenant[T]:
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= self._sweep_at:
                self._sweep()
            tenant = self._tenants[name] = _Tenant(name, self._weights.get(name, 1.0), self._virtual)
        return tenant

    def _sweep(self) -> None:
        """Forget tenants without work that are ahead of the others by no more than one request."""
        ahead = self._virtual + self._largest
        self._tenants = {
            name: tenant
            for name, tenant in self._tenants.items()
            if tenant.held or tenant.running or tenant.counter > ahead
        }
        self._sweep_at = max(IDLE_TENANTS, 2 * len(self._tenants))

    def _announce(self, size: int, line: _Line[T]) -> None:
        """Put a line where its tenant's counter belongs; entries of an older version count no more."""
        line.version += 1
        entry = (line.tenant.counter, next(self._numbers), line.version, line)
        heapq.heappush(self._sizes.setdefault(size, []), entry)

    def _head(self, size: int) -> tuple[float, tuple[float, int, Held[T]]] | None:
        entries = self._sizes[size]
        while entries:
            counter, number, version, line = entries[0]
            if version != line.version:
                heapq.heappop(entries)
                continue
            while line.heap and line.heap[0][2] not in self._held:
                heapq.heappop(line.heap)
                line.left -= 1
            if not line.heap:
                heapq.heappop(entries)
                line.version += 1
                del line.tenant.lines[size]
            elif line.tenant.counter > counter:
                heapq.heapreplace(entries, (line.tenant.counter, number, version, line))
            else:
                return counter, line.heap[0]
        del self._sizes[size]
        return None
