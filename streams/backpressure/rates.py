"""Rates over a window that fades: what counts for half after so long. Pure, and without the bias of a first sample."""

from __future__ import annotations

# A consumer is clearly faster than was thought once it has finished so many more than a quarter above the estimate.
_CLEARLY_MORE, _CLEARLY_BY = 1.25, 8.0
# Rates of slow consumers need a longer look: half of what is in them comes from this many events at least.
_EVENTS, _LONGEST = 30.0, 5.0


class Rate:
    """Events per second.

    Args:
        half_life_s: A second counts for half after so many seconds of observation.
    """

    __slots__ = ("_count", "_half_life_s", "_passed_s")

    def __init__(self, half_life_s: float) -> None:
        if half_life_s <= 0:
            raise ValueError(f"half_life_s must be positive, got {half_life_s}")
        self._half_life_s = half_life_s
        self._count = 0.0
        self._passed_s = 0.0

    def add(self, count: float, passed_s: float, *, longer: float = 1.0) -> None:
        """Observe *count* events in *passed_s* seconds.

        Args:
            longer: Factor to the half-life.
        """
        kept: float = 0.5 ** (passed_s / self._half_life_s / longer)
        self._count = self._count * kept + count
        self._passed_s = self._passed_s * kept + passed_s

    @property
    def observed(self) -> bool:
        """Whether there was anything to observe."""
        return self._passed_s > 0

    @property
    def per_s(self) -> float:
        """The rate; 0 before anything was observed."""
        return self._count / self._passed_s if self._passed_s else 0.0


class Capacity:
    """What a consumer can do: its rate while there was always something to do.

    Between two spikes it is remembered. A consumer that clearly does more than was thought (it was restarted, or had
    never been busy before) is believed soon (a CUSUM test, Page 1954); one that does less, by and by.
    """

    __slots__ = ("_excess", "_half_life_s", "_rate", "_since")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._rate = Rate(half_life_s)
        self._excess = 0.0
        self._since: list[tuple[float, float]] = []

    def add(self, finished: float, passed_s: float) -> None:
        """Observe *finished* records in *passed_s* seconds in which the consumer was never idle."""
        rate = self._rate
        self._excess = max(0.0, self._excess + finished - _CLEARLY_MORE * rate.per_s * passed_s)
        self._since = [*self._since, (finished, passed_s)] if self._excess else []
        if self._excess > _CLEARLY_BY and len(self._since) > 1:
            rate = self._rate = Rate(self._half_life_s)
            for observed in self._since:
                rate.add(*observed)
            self._excess, self._since = 0.0, []
            return
        events_s = _EVENTS / rate.per_s if rate.per_s else 0.0
        rate.add(finished, passed_s, longer=min(max(1.0, events_s / self._half_life_s), _LONGEST))

    @property
    def per_s(self) -> float | None:
        """Records per second, None while the consumer was never seen busy."""
        return self._rate.per_s if self._rate.observed else None
