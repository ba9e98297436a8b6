"""Which calls of an overflow lane wait for room, by lot. Pure: offsets, no records."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable


class Parked:
    """Offsets of an overflow lane, each lot's in the lane's order.

    Args:
        most: Offsets that are kept; beyond it `full` says that no more should be looked at.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._offsets: dict[str, deque[int]] = {}
        self._waiting: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """No more offsets should be parked."""
        return self._count >= self._most

    @property
    def waiting(self) -> int:
        """Calls in the lane that were not started, those included that nobody has looked at yet."""
        return self._waiting.total()

    def moved(self, lot: str) -> None:
        """Note that a call of *lot* is in the lane."""
        self._waiting[lot] += 1

    def waits(self, lot: str) -> bool:
        """Tell whether calls of *lot* are in the lane: later ones go behind them."""
        return self._waiting[lot] > 0

    def started(self, lot: str) -> None:
        """Note that a call of *lot* was started out of the lane."""
        self._waiting[lot] -= 1
        if self._waiting[lot] <= 0:
            del self._waiting[lot]

    def park(self, lot: str, offset: int) -> None:
        """Keep an offset until its lot has room; offsets come in order."""
        self._offsets.setdefault(lot, deque()).append(offset)
        self._count += 1

    def holds(self, lot: str) -> bool:
        """Tell whether earlier calls of *lot* are parked."""
        return lot in self._offsets

    def take(self, lot: str, offset: int) -> bool:
        """Forget *offset* if it is the next one of its lot; False when it is not, or was taken before."""
        offsets = self._offsets.get(lot)
        if not offsets or offsets[0] != offset:
            return False
        offsets.popleft()
        self._count -= 1
        if not offsets:
            del self._offsets[lot]
        return True

    def first(self, has_room: Callable[[str], bool]) -> int | None:
        """Return the earliest offset of a lot that has room, None where none has."""
        return min((offsets[0] for lot, offsets in self._offsets.items() if has_room(lot)), default=None)
