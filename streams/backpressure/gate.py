"""The gate that producers pass before they publish an invocation.

It holds the latest `BackpressureSignal` of each lane and answers how long a caller should wait. Pure: whoever follows
the `backpressure` topic feeds it (`put`), time and luck are handed in. A signal past its time to live counts as
unknown: the control plane may be away, and everyone works on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from streams.backpressure.ramp import Ramp
from streams.errors import CodecError
from streams.records.codec import decode_as
from streams.records.control import BackpressureSignal

UnknownPolicy = Literal["publish", "hold"]
_HOLD_S = 1.0
_JITTER = 0.2
_LEAST_WAIT_S = 0.1
# Ten processes begin with what the lane drains, one reaches it after 7 s.
_RAMP_SHARE = 0.1
_RAMP_DOUBLING_S = 2.0


@dataclass(slots=True)
class GateCounts:
    """What the gate decided so far.

    Attributes:
        unknown: Checks without a signal that still holds, whatever was decided then.
        unreadable: Records of the topic that could not be decoded.
        paced: Put off for a moment, because a lane that has just opened is entered slowly.
    """

    admitted: int = 0
    refused: int = 0
    unknown: int = 0
    unreadable: int = 0
    paced: int = 0


class Gate:
    """Decides, for each invocation, whether it may be published now.

    Args:
        luck: Gives numbers uniform in [0, 1): waits are lengthened by up to a fifth, so that callers do not come back
            together.
        warn: Told once in words when a lane has no valid signal, and again only after it had one.
        unknown: What to do without a valid signal: `publish`, or `hold` and ask again in a second.
    """

    def __init__(
        self, luck: Callable[[], float], warn: Callable[[str], None], *, unknown: UnknownPolicy = "publish"
    ) -> None:
        self._luck = luck
        self._warn = warn
        self._unknown = unknown
        self._signals: dict[str, BackpressureSignal] = {}
        self._warned: set[str] = set()
        self._reopened_at_ms: dict[str, int] = {}
        self._ramps: dict[str, Ramp] = {}
        self.counts = GateCounts()

    def put(self, key: bytes, value: bytes | None) -> BackpressureSignal | None:
        """Take a record of the `backpressure` topic; return the signal, None for a tombstone or unreadable value."""
        if value is None:
            self._signals.pop(key.decode("utf-8", "replace"), None)
            return None
        try:
            signal = decode_as(BackpressureSignal, value)
        except CodecError:
            self.counts.unreadable += 1
            return None
        self.apply(signal)
        return signal

    def apply(self, signal: BackpressureSignal) -> None:
        """Follow *signal*; one that is older than what is known changes nothing."""
        known = self._signals.get(signal.lane)
        if known is not None and signal.at_ms < known.at_ms:
            return
        self._signals[signal.lane] = signal
        self._warned.discard(signal.lane)
        if signal.level == "closed":
            self._reopened_at_ms.pop(signal.lane, None)
            self._ramps.pop(signal.lane, None)
        elif known is not None and known.level == "closed":
            self._reopened_at_ms[signal.lane] = signal.at_ms

    def signal(self, lane: str, now_ms: int) -> BackpressureSignal | None:
        """Return the lane's signal while it holds."""
        signal = self._signals.get(lane)
        return signal if signal is not None and now_ms < signal.at_ms + signal.ttl_s * 1000 else None

    def check(self, lane: str, priority: str, now_ms: int) -> float | None:
        """Return None when an invocation may be published, else the seconds to wait before it is tried again.

        Args:
            priority: `high`, `normal` or `low`; under `slow` only `low` waits.
            now_ms: Milliseconds since the epoch.
        """
        signal = self.signal(lane, now_ms)
        if signal is None:
            wait_s = self._without_signal(lane)
        elif signal.level == "closed" or (signal.level == "slow" and priority == "low"):
            # The time that passed since the signal has passed for the backlog too.
            wait_s = max(signal.retry_after_s - (now_ms - signal.at_ms) / 1000, _LEAST_WAIT_S)
        elif (pause_s := self._pace(signal, now_ms / 1000)) > 0:
            self.counts.paced += 1
            return pause_s
        else:
            wait_s = None
        if wait_s is None:
            self.counts.admitted += 1
            return None
        self.counts.refused += 1
        return wait_s * (1 + _JITTER * self._luck())

    def _pace(self, signal: BackpressureSignal, now_s: float) -> float:
        """Return the seconds for which a lane that has just opened has no room; 0.0 when it has."""
        reopened_at_ms = self._reopened_at_ms.pop(signal.lane, None)
        if reopened_at_ms is not None:
            start_per_s = max(1.0, signal.drain_per_s * _RAMP_SHARE)
            # From when it opened: who reads of that later, as a client that has just started, is not in the crowd.
            self._ramps[signal.lane] = Ramp(start_per_s, _RAMP_DOUBLING_S, min(now_s, reopened_at_ms / 1000))
        ramp = self._ramps.get(signal.lane)
        if ramp is None:
            return 0.0
        if ramp.over(now_s):
            del self._ramps[signal.lane]
            return 0.0
        return ramp.take(now_s)

    def _without_signal(self, lane: str) -> float | None:
        self.counts.unknown += 1
        if lane not in self._warned:
            self._warned.add(lane)
            known = self._signals.get(lane)
            what = f"the last one is older than its {known.ttl_s:g} s" if known else "none was ever published"
            does = "publishing without" if self._unknown == "publish" else "holding back until there is one"
            self._warn(f"no valid backpressure signal for lane {lane!r} ({what}; is the control role running?): {does}")
        return None if self._unknown == "publish" else _HOLD_S
