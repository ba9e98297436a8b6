"""The fleet's view of its dependencies, as a shard consults it before it sends a call.

A replica of the `breakers` topic: a dictionary, fed by whoever follows the topic (`put`), asked in microseconds. An
open breaker costs its callers no hop. Refusals are counted as demand and leave as digests, so that the control plane
leases the half-open probe to a shard that has a call to make.
"""

from __future__ import annotations

from streams.breakers.machine import generation_of
from streams.breakers.refusal import REFUSING, Refusal, refusal_of, refuses
from streams.breakers.settings import BreakerSettings
from streams.breakers.tally import Sequence, Tally
from streams.errors import CodecError
from streams.records.codec import decode_as
from streams.records.control import BreakerState, OutcomeDigest


class BreakerView:
    """Replica of the `breakers` topic for one process.

    Args:
        settings: Say for how long a record still holds after its end (`grace_s`).
    """

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._grace_of = (settings or BreakerSettings()).grace_of
        self._states: dict[str, BreakerState] = {}
        self._demand: dict[tuple[str, str], Tally] = {}
        self._claimed: dict[str, tuple[int, int]] = {}
        self._sequence = Sequence()
        self.unreadable = 0

    def put(self, key: bytes, value: bytes | None) -> BreakerState | None:
        """Take a record of the topic; return the state that it set, None for a tombstone or an unreadable value.

        What cannot be read is counted (`unreadable`) and otherwise ignored: an unknown breaker admits.
        """
        if value is None:
            self._states.pop(key.decode("utf-8", "replace"), None)
            return None
        try:
            state = decode_as(BreakerState, value)
        except CodecError:
            self.unreadable += 1
            return None
        return state if self.apply(state) else None

    def apply(self, state: BreakerState) -> bool:
        """Follow a record; return False for one that is not newer than what is known."""
        known = self._states.get(state.dependency)
        if known is not None and (state.epoch, state.number) <= (known.epoch, known.number):
            return False
        self._states[state.dependency] = state
        return True

    def get(self, dependency: str) -> BreakerState | None:
        """Return the newest record of a dependency, None where there is none."""
        return self._states.get(dependency)

    def states(self) -> tuple[BreakerState, ...]:
        """Return every record, by dependency."""
        return tuple(self._states[name] for name in sorted(self._states))

    def refuses(self, dependency: str, now_ms: int) -> str | None:
        """Return why ordinary calls to *dependency* must not go out, None when they may. Counts nothing."""
        state = self._states.get(dependency)
        return state.reason if state is not None and self._refuses(state, now_ms) else None

    def admit(self, dependency: str, caller: str, now_ms: int) -> Refusal | str:
        """Decide about one call.

        Args:
            caller: Who would send it: the name under which it asks for, and is leased, the probe.

        Returns:
            A `Refusal` (counted as *caller*'s demand), or the stamp to send the call with: empty for an ordinary call,
            the lease's generation for the one probe of a lease.
        """
        state = self._states.get(dependency)
        if state is None or not self._refuses(state, now_ms):
            return ""
        generation = (state.epoch, state.number)
        if state.phase == "half-open" and state.probe_holder == caller and self._claimed.get(dependency) != generation:
            self._claimed[dependency] = generation
            return generation_of(state)
        tally = self._demand.get((caller, dependency))
        if tally is None:
            tally = self._demand[caller, dependency] = Tally(dependency, caller, from_ms=now_ms)
        tally.short_circuited += 1
        return refusal_of(state)

    def drain(self, now_ms: int) -> tuple[OutcomeDigest, ...]:
        """Return the demand since the last call, for the `outcomes` topic."""
        digests = []
        for (_, dependency), tally in self._demand.items():
            state = self._states.get(dependency)
            digests.append(
                tally.digest(
                    self._sequence.next(now_ms),
                    now_ms,
                    generation=generation_of(state) if state else "0.0",
                    phase=state.phase if state else "closed",
                )
            )
        self._demand.clear()
        return tuple(digests)

    def _refuses(self, state: BreakerState, now_ms: int) -> bool:
        return state.phase in REFUSING and refuses(state, now_ms, self._grace_of(state.dependency))
