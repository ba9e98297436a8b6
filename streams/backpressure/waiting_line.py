"""Where the submissions of one process wait for a lane: bounded, the high priorities first, then in their order.

Only the first one asks the gate; when it has passed, the next one does. So a thousand that wait cost no more than one,
and they leave at the gate's pace.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from streams.errors import Backpressure, TooManyWaiting

_RANKS = {"high": 0, "normal": 1, "low": 2}


@dataclass(order=True, slots=True)
class _Place:
    rank: int
    number: int
    turn: asyncio.Event = field(default_factory=asyncio.Event, compare=False)


class WaitingLine:
    """Submissions that wait for one lane.

    Args:
        check: Asks the gate: priority in, None or the seconds to wait out.
        luck: Gives numbers uniform in [0, 1).
        most, most_bytes: How many may wait, and how large they may be together.
        look_s: Longest time between two looks at the gate, since a signal may change earlier than it said.
    """

    def __init__(
        self,
        lane: str,
        check: Callable[[str], float | None],
        luck: Callable[[], float],
        *,
        most: int,
        most_bytes: int,
        look_s: float = 0.5,
    ) -> None:
        self._lane = lane
        self._check = check
        self._luck = luck
        self._most = most
        self._most_bytes = most_bytes
        self._look_s = look_s
        self._line: list[_Place] = []
        self._numbers = count()
        self._bytes = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    async def wait(self, priority: str, size_bytes: int, timeout_s: float) -> None:
        """Return when it is this submission's turn and the gate lets it pass.

        Raises:
            TooManyWaiting: The line is full.
            Backpressure: It took longer than *timeout_s*.
        """
        if len(self._line) >= self._most or self._bytes + size_bytes > self._most_bytes:
            raise TooManyWaiting(self._lane, len(self._line), self._bytes, self._look_s)
        place = _Place(_RANKS.get(priority, 1), next(self._numbers))
        heapq.heappush(self._line, place)
        self._bytes += size_bytes
        wait_s = 0.0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._line[0] is not place:
                        place.turn.clear()
                        await place.turn.wait()
                        continue
                    again_s = self._check(priority)
                    if again_s is None:
                        return
                    # The gate has made it longer by luck; a look before that is made shorter by luck.
                    wait_s = again_s
                    await asyncio.sleep(min(again_s, self._look_s * (0.5 + 0.5 * self._luck())))
        except TimeoutError:
            raise Backpressure(self._lane, wait_s or self._look_s) from None
        finally:
            self._leave(place, size_bytes)

    def _leave(self, place: _Place, size_bytes: int) -> None:
        self._bytes -= size_bytes
        if self._line[0] is place:
            heapq.heappop(self._line)
        else:
            self._line.remove(place)
            heapq.heapify(self._line)
        if self._line:
            self._line[0].turn.set()
