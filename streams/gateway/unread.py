"""What this gateway has accepted and its shard has not been seen to know yet.

Shards read questions before invocations, so one that was just accepted, or stands in a backlog, is unknown to them for
a while. The log is the truth; this only keeps the gateway from denying what it has promised. Bounded: the oldest are
forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_KEPT = 100_000


class Unread:
    """IDs, the oldest first.

    Args:
        most: IDs that are kept.
    """

    def __init__(self, most: int = MAX_KEPT) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._most = most

    def __contains__(self, invocation: str) -> bool:
        return invocation in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, invocation: str) -> None:
        """Note one that was accepted."""
        self._ids[invocation] = None
        self._ids.move_to_end(invocation)
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)

    def known(self, invocation: str) -> None:
        """Forget one that its shard knows: from now on its word counts."""
        self._ids.pop(invocation, None)
