"""Rates over a window that fades: what counts for half after so long. Pure, and without the bias of a first sample."""

from __future__ import annotations

# What has to be exceeded twice in a row before an estimate is taken for outdated; noise seldom does.
_CLEARLY_MORE = 1.25


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

    def add(self, count: float, passed_s: float) -> None:
        """Observe *count* events in *passed_s* seconds."""
        kept: float = 0.5 ** (passed_s / self._half_life_s)
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

    Between two spikes it is remembered. A consumer that twice in a row does clearly more than was thought (it was
    restarted, or never been busy before) is believed at once; one that does less, by and by.
    """

    __slots__ = ("_half_life_s", "_more", "_rate")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._rate = Rate(half_life_s)
        self._more: tuple[float, float] | None = None

    def add(self, finished: float, passed_s: float) -> None:
        """Observe *finished* records in *passed_s* seconds in which the consumer was never idle."""
        more = passed_s > 0 and finished / passed_s > _CLEARLY_MORE * self._rate.per_s
        if more and self._more is not None:
            self._rate = Rate(self._half_life_s)
            self._rate.add(*self._more)
        self._more = (finished, passed_s) if more else None
        self._rate.add(finished, passed_s)

    @property
    def per_s(self) -> float | None:
        """Records per second, None while the consumer was never seen busy."""
        return self._rate.per_s if self._rate.observed else None
