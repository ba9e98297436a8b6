"""The breakers of one partition of dependencies: digests and moments come in, transitions come out.

Pure. Digests are counted once by (reporter, sequence), however often they are delivered; what they say about an older
generation changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streams.breakers import BreakerMachine, BreakerPolicy, Transition, closed
from streams.breakers.machine import parse_generation
from streams.records.control import BreakerState, OutcomeDigest

_REPORTERS_KEPT = 10_000


class Fleet:
    """Machines by dependency.

    Args:
        policy_of: Thresholds of a dependency.
        states: What the `breakers` topic holds.
        epoch: Of this writer; above that of every state.
        max_age_s: Digests that end longer ago are ignored.
        luck: Gives numbers uniform in [0, 1).
    """

    def __init__(
        self,
        policy_of: Callable[[str], BreakerPolicy],
        states: Iterable[BreakerState],
        epoch: int,
        *,
        max_age_s: float,
        luck: Callable[[], float],
    ) -> None:
        self._policy_of = policy_of
        self._epoch = epoch
        self._max_age_s = max_age_s
        self._luck = luck
        self._machines = {state.dependency: self._machine(state) for state in states}
        self._sequences: dict[tuple[str, str], int] = {}

    def take(self, digest: OutcomeDigest, now_ms: int) -> tuple[Transition, ...]:
        """Merge a digest; return what changed by it."""
        if self._is_repetition(digest) or now_ms - digest.to_ms > self._max_age_s * 1000:
            return ()
        machine = self._machines.get(digest.dependency)
        if machine is None:
            machine = self._machines[digest.dependency] = self._machine(closed(digest.dependency))
        generation = parse_generation(digest.generation) or (0, 0)
        changes: list[Transition | None] = []
        if digest.probe:
            errors = ", ".join(sorted(digest.errors))
            changes.append(machine.probe(digest.probe == "ok", generation, now_ms, self._luck(), why=errors))
        elif digest.calls:
            changes.append(
                machine.record_many(digest.calls, digest.failures, digest.slow, generation, now_ms, self._luck())
            )
        if digest.short_circuited:
            changes.append(machine.demand(digest.reporter, now_ms))
        return tuple(change for change in changes if change is not None)

    def tick(self, now_ms: int) -> tuple[Transition, ...]:
        """Let time pass for every breaker; return what changed by it."""
        changes = (machine.tick(now_ms) for machine in self._machines.values())
        return tuple(change for change in changes if change is not None)

    def state(self, dependency: str) -> BreakerState | None:
        """Return the state of a dependency that was heard of."""
        machine = self._machines.get(dependency)
        return machine.state if machine is not None else None

    def _machine(self, state: BreakerState) -> BreakerMachine:
        return BreakerMachine(self._policy_of(state.dependency), state, epoch=self._epoch)

    def _is_repetition(self, digest: OutcomeDigest) -> bool:
        reporter = (digest.reporter, digest.dependency)
        last = self._sequences.pop(reporter, -1)
        self._sequences[reporter] = max(last, digest.sequence)
        if len(self._sequences) > _REPORTERS_KEPT:
            # The reporter that was silent for longest; forgetting it can at worst count one digest twice.
            self._sequences.pop(next(iter(self._sequences)))
        return digest.sequence <= last
