"""What this gateway has accepted of late: who asked for it, with which input, and whether its shard knows it by now.

Shards read questions before invocations, so one that was just accepted, or stands in a backlog, is unknown to them for
a while. The log is the truth; this keeps the gateway from denying what it has promised, and lets it refuse the same ID
with another input at once. Bounded: the oldest are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_KEPT = 100_000


@dataclass(slots=True)
class Promise:
    """An accepted invocation.

    Attributes:
        digest: Of its input.
        unread: Its shard has not been seen to know it.
    """

    tenant: str
    digest: bytes
    unread: bool = True


class Accepted:
    """Promises by invocation ID, the oldest first.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int = MAX_KEPT) -> None:
        self._promises: OrderedDict[str, Promise] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._promises)

    def get(self, invocation: str) -> Promise | None:
        """Return what was promised; None for what was not, or long ago."""
        return self._promises.get(invocation)

    def add(self, invocation: str, tenant: str, digest: bytes) -> None:
        """Note one that was accepted; of a repetition the first counts."""
        if invocation in self._promises:
            self._promises.move_to_end(invocation)
            return
        self._promises[invocation] = Promise(tenant, digest)
        if len(self._promises) > self._most:
            self._promises.popitem(last=False)

    def is_unread(self, invocation: str) -> bool:
        """Tell whether it was accepted here and its shard may not know it yet."""
        promise = self._promises.get(invocation)
        return promise is not None and promise.unread

    def known(self, invocation: str) -> None:
        """Its shard knows it: from now on its word counts."""
        if (promise := self._promises.get(invocation)) is not None:
            promise.unread = False
