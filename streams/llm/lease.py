"""What a dispatcher may use of a pool that it shares with others, and until when. Pure; the other side is `budget`."""

from __future__ import annotations

import math
from collections import OrderedDict

from streams.llm.budget import Parts, unpack
from streams.llm.limits import NOTHING
from streams.records.allotments import LlmAllotments

STOP_EARLY = 0.1
"""Share of a lease at the end of which no call starts any more, so that what is sent arrives before it is over."""

SENT_DEMANDS = 1_024


class Lease:
    """The allotment of this dispatcher.

    Args:
        holder: Its name.
        keys: How many keys the pool has.
    """

    def __init__(self, holder: str, keys: int) -> None:
        self._holder = holder
        self._keys = keys
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._number = 0
        self._parts: Parts = (NOTHING,) * keys
        self.applied = 0
        """Number of the allotments that it goes by."""
        self.until = -math.inf
        """When no call may start any more."""

    def ask(self, now: float) -> int:
        """Return the number of a demand that is sent now."""
        self._number += 1
        self._sent[self._number] = now
        while len(self._sent) > SENT_DEMANDS:
            self._sent.popitem(last=False)
        return self._number

    def take(self, allotments: LlmAllotments) -> None:
        """Go by new allotments; those that are older than what it goes by are ignored."""
        if allotments.number <= self.applied:
            return
        self.applied = allotments.number
        if self._holder not in allotments.holders:
            return
        index = allotments.holders.index(self._holder)
        if not allotments.answers[index]:
            return  # the scheduler has not heard of it yet, and only counts what it may be using
        self._parts = unpack(allotments.parts, allotments.keys, index, self._keys)
        if (asked_at := self._sent.get(allotments.answers[index])) is not None:
            self.until = max(self.until, asked_at + allotments.lease_s * (1 - STOP_EARLY))

    def parts(self, now: float) -> Parts:
        """Return what may be used now."""
        return self._parts if now < self.until else (NOTHING,) * self._keys
