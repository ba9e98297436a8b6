"""What agents' state may take of this process's memory, shared by its shards. Pure."""

from __future__ import annotations


class Room:
    """Counts what each shard takes.

    A shard may take more than its share as long as others take less; when there is too little, those above their share
    give back, so that an idle shard's state is not forgotten for a busy one's.

    Args:
        limit_bytes: For all shards together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used: dict[int, int] = {}

    @property
    def used_bytes(self) -> int:
        """What all shards take."""
        return sum(self._used.values())

    @property
    def share_bytes(self) -> int:
        """What each shard may take when all want more."""
        return self.limit_bytes // max(1, len(self._used))

    def join(self, shard: int) -> None:
        """Count a shard that is about to be restored."""
        self._used.setdefault(shard, 0)

    def count(self, shard: int, used_bytes: int) -> int:
        """Note what a shard takes; return how much of it is too much."""
        self._used[shard] = used_bytes
        return max(0, min(self.used_bytes - self.limit_bytes, used_bytes - self.share_bytes))

    def leave(self, shard: int) -> None:
        """Count a shard no longer."""
        self._used.pop(shard, None)
