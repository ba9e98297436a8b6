"""The breakers of one partition of dependencies: digests and moments come in, transitions come out.

Pure. Digests are counted once by (reporter, sequence), however often they are delivered; what they say about an older
generation changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streams.breakers import BreakerMachine, BreakerPolicy, Transition, closed
from streams.breakers.machine import parse_generation
from streams.records.control import BreakerPhase, BreakerState, OutcomeDigest

_REPORTERS_KEPT = 10_000
_DEPENDENCIES_KEPT = 10_000
"""Names come from apps, where they are few; a reporter that makes them up must not fill the memory."""


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
        machine = self._machine_of(digest.dependency)
        if machine is None:
            return ()
        generation = parse_generation(digest.generation) or (0, 0)
        changes: list[Transition | None] = []
        if digest.probe:
            changes.append(self._probe(machine, digest, generation, now_ms))
        elif digest.calls:
            changes.append(machine.heard(digest.phase, generation, now_ms))
            changes.append(
                machine.record_many(
                    digest.calls,
                    digest.failures,
                    digest.slow,
                    generation,
                    now_ms,
                    self._luck(),
                    retry_after_ms=digest.retry_after_ms,
                )
            )
        if digest.short_circuited:
            changes.append(machine.demand(digest.reporter, now_ms))
        return _changes(changes)

    def order(
        self, dependency: str, phase: BreakerPhase, by: str, reason: str, now_ms: int, order: str
    ) -> tuple[Transition, ...]:
        """Follow an operator's order; one that was followed before changes nothing.

        Args:
            order: Its ID.

        Raises:
            ValueError: A phase that cannot be forced.
        """
        machine = self._machine_of(dependency)
        return _changes([machine.force(phase, by, reason, now_ms, order=order)]) if machine is not None else ()

    def tick(self, now_ms: int) -> tuple[Transition, ...]:
        """Let time pass for every breaker; return what changed by it."""
        return _changes([machine.tick(now_ms) for machine in self._machines.values()])

    def state(self, dependency: str) -> BreakerState | None:
        """Return the state of a dependency that was heard of."""
        machine = self._machines.get(dependency)
        return machine.state if machine is not None else None

    def states(self) -> tuple[BreakerState, ...]:
        """Return the states of every dependency that was heard of."""
        return tuple(machine.state for machine in self._machines.values())

    def _probe(
        self, machine: BreakerMachine, digest: OutcomeDigest, generation: tuple[int, int], now_ms: int
    ) -> Transition | None:
        match digest.probe:
            case "begun":
                return machine.begin_probe(generation, digest.probe_until_ms, now_ms)
            case "void":
                return machine.void_probe(generation, now_ms)
        return machine.probe(
            digest.probe == "ok",
            generation,
            now_ms,
            self._luck(),
            why=", ".join(sorted(digest.errors)),
            retry_after_ms=digest.retry_after_ms,
        )

    def _machine_of(self, dependency: str) -> BreakerMachine | None:
        """Return the machine of a dependency, None for a new one beyond the bound."""
        machine = self._machines.get(dependency)
        if machine is None and len(self._machines) < _DEPENDENCIES_KEPT:
            machine = self._machines[dependency] = self._machine(closed(dependency))
        return machine

    def _machine(self, state: BreakerState) -> BreakerMachine:
        return BreakerMachine(self._policy_of(state.dependency), state, epoch=self._epoch, hears_callers=True)

    def _is_repetition(self, digest: OutcomeDigest) -> bool:
        reporter = (digest.reporter, digest.dependency)
        last = self._sequences.pop(reporter, -1)
        self._sequences[reporter] = max(last, digest.sequence)
        if len(self._sequences) > _REPORTERS_KEPT:
            # The reporter that was silent for longest; forgetting it can at worst count one digest twice.
            self._sequences.pop(next(iter(self._sequences)))
        return digest.sequence <= last


def _changes(results: Iterable[Transition | None]) -> tuple[Transition, ...]:
    return tuple(change for change in results if change is not None)
