"""The breaker as a worker meets it: ask before a call, report after it.

A guard decides by two machines. Its own trips at once on what this process saw. The fleet's record, where there is one
that still holds, comes first: it refuses for everyone and leases the probe. When the control plane falls silent, the
record runs out and the guard goes on with local decisions and local probes. What it saw leaves as `OutcomeDigest`s.

Pure: time and luck are handed in; it sends nothing. Not safe for threads: one event loop uses it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from streams.breakers.events import FLEET, LOCAL, log_transition
from streams.breakers.machine import BreakerMachine, Transition, closed, generation_of, parse_generation
from streams.breakers.policy import BreakerPolicy
from streams.breakers.refusal import Refusal, has_expired, refusal_of
from streams.breakers.tally import Sequence, Tally
from streams.breakers.window import FAILED, SLOW
from streams.records.control import BreakerState, OutcomeDigest

_DIGESTS_KEPT = 64
_SUMS = ("calls", "failures", "slow", "short_circuited")
_FREE_PHASES = frozenset({"forced-closed", "metrics-only"})


class Admitted(NamedTuple):
    """What a call was admitted under; given back with its outcome, so that a late one changes nothing.

    Attributes:
        epoch: With `number`, the fleet's generation.
        local: Number of the process's own machine.
        probe: `fleet` or `local` when the call is a half-open probe.
    """

    epoch: int
    number: int
    local: int
    probe: str = ""


class Guard:
    """One process's breaker for one dependency.

    Args:
        dependency: `tool:<name>`, `llm:<pool>` or `postgres`.
        reporter: Name of this process in digests and leases; unique in the fleet.
        luck: Gives numbers uniform in [0, 1), for jitter: `random.random`, or a seeded one.
        longest_call_s: Seconds after which a call has ended, one way or another: its timeout. For so long a probe is
            waited for once it has begun.
        on_change: Told of every transition that holds here, with who decided it; logs it by default.

    Attributes:
        transitions: How often a phase was entered here, by (who decided, phase).
    """

    def __init__(
        self,
        dependency: str,
        policy: BreakerPolicy,
        reporter: str,
        luck: Callable[[], float],
        *,
        longest_call_s: float = 30.0,
        on_change: Callable[[Transition, str], object] = log_transition,
    ) -> None:
        self.dependency = dependency
        # A probe of this process's own begins with its lease, so here the lease is as long as the call.
        lease_s = max(policy.probe_lease_s, longest_call_s)
        self.policy = policy.model_copy(update={"probe_lease_s": lease_s})
        self.reporter = reporter
        self.transitions: Counter[tuple[str, str]] = Counter()
        self._luck = luck
        self._longest_call_s = longest_call_s
        self._on_change = on_change
        self._slow_s = policy.slow_call_s if policy.slow_call_s is not None else float("inf")
        self._sorts_errors = bool(policy.ignored_errors or policy.counted_errors)
        self._machine = BreakerMachine(self.policy, closed(dependency))
        self._fleet = closed(dependency)
        self._silent = False
        self._probed = (-1, -1)
        self._tally = Tally(dependency, reporter)
        self._totals: Counter[str] = Counter()
        # Digests are soft state: should nobody drain them, the oldest are worth least.
        self._pending: deque[OutcomeDigest] = deque(maxlen=_DIGESTS_KEPT)
        self._sequence = Sequence()
        self._settle()

    @property
    def phase(self) -> str:
        """What holds here: the fleet's phase; the local one while the fleet's is closed or has run out."""
        return self._machine.state.phase if self._is_local else self._fleet.phase

    @property
    def state(self) -> BreakerState:
        """The record behind `phase`: the fleet's, or this process's own."""
        return self._machine.state if self._is_local else self._fleet

    def admit(self, now_ms: int, stamp: str = "") -> Admitted | Refusal:
        """Decide whether a call may go out.

        Args:
            stamp: Generation of the lease that the call carries as its probe; empty for ordinary calls.
        """
        if self._free and not stamp:
            return self._current
        return self._decide(now_ms, stamp)

    def would_refuse(self, now_ms: int, *, count: bool = False) -> Refusal | None:
        """Return the refusal that a call without a stamp would meet now, None when one may go out.

        For calls that wait for something else before they are made; `admit` decides when they are.

        Args:
            count: The call is not made because of it: a call short-circuited, and demand for a probe.
        """
        if self._free:
            return None
        if self._is_local:
            state = self._machine.state
            end_ms = state.until_ms if state.phase == "open" else state.probe_expires_ms
            free = state.phase == "closed" or now_ms >= end_ms
            free = free or (state.phase == "half-open" and not state.probe_holder)
        else:
            state = self._fleet
            free = has_expired(state, now_ms, self.policy.grace_s) or self._holds_lease
        if free:
            return None
        return self._refuse(state) if count else refusal_of(state)

    def record(
        self,
        admitted: Admitted,
        failed: bool,
        duration_s: float,
        now_ms: int,
        error: str = "",
        retry_after_s: float = 0.0,
    ) -> BreakerState | None:
        """Count the outcome of an admitted call; return the local state when it changed by that.

        Args:
            failed: The dependency failed. What the caller did wrong, or a tool declares, is no failure of it.
            error: Class of the error, by which the policy may ignore it, and for the digest.
            retry_after_s: For how long the dependency asked to be left alone with its failure (Retry-After of a 503).
        """
        if failed and self._sorts_errors:
            if self.policy.ignores(error):
                return self._ignore(admitted, now_ms)
            failed = self.policy.counts(error)
        code = (FAILED if failed else 0) | (SLOW if duration_s >= self._slow_s else 0)
        retry_after_ms = round(retry_after_s * 1000) if failed and retry_after_s > 0 else 0
        if admitted is not self._current and admitted != self._current:
            return self._record_other(admitted, code, now_ms, error, retry_after_ms)
        tally = self._tally
        tally.calls += 1
        if code:
            tally.add_bad(code, error, retry_after_ms)
        if self._forced:
            return None
        changed = self._machine.record(code, now_ms, self._luck() if code else 0.5, retry_after_ms)
        if changed is None:
            return None
        return self._moved(changed)

    def throttled(self, admitted: Admitted, now_ms: int) -> BreakerState | None:
        """Take note of an admitted call that was answered with 429 or its kin: a limiter's business, not counted here.

        A probe that is answered so has found the dependency at work.
        """
        return self._ignore(admitted, now_ms)

    def abandon(self, admitted: Admitted, now_ms: int) -> None:
        """Take note of an admitted call whose outcome nobody will know: a probe's lease goes on to another call."""
        if admitted.probe == "fleet":
            self._report_probe(admitted, "void", Tally(self.dependency, self.reporter, now_ms), now_ms)
        elif admitted.probe == "local" and admitted.local == self._machine.state.number:
            self._machine.void_probe(self._machine.generation, now_ms)
            self._settle()

    @property
    def totals(self) -> dict[str, int]:
        """`calls`, `failures`, `slow` and `short_circuited` since this guard was made."""
        return {name: self._totals[name] + getattr(self._tally, name) for name in _SUMS}

    def apply(self, record: BreakerState) -> bool:
        """Follow the fleet's record; return False for one that is not newer than what is known."""
        known = self._fleet
        if (record.epoch, record.number) <= (known.epoch, known.number):
            return False
        self._close_tally(record.since_ms)
        self._fleet = record
        self._silent = False
        # The fleet has decided: what this process concluded from its own share of the calls starts afresh.
        self._restart_local(closed(self.dependency, since_ms=record.since_ms))
        self._tell(Transition(known, record), FLEET)
        return True

    def drain(self, now_ms: int) -> tuple[OutcomeDigest, ...]:
        """Return what happened since the last call, for the `outcomes` topic; empty when nothing did."""
        self._close_tally(now_ms)
        digests = tuple(self._pending)
        self._pending.clear()
        return digests

    @property
    def _is_local(self) -> bool:
        return self._silent or self._fleet.phase == "closed"

    def _decide(self, now_ms: int, stamp: str) -> Admitted | Refusal:
        if stamp:
            return self._decide_stamped(stamp, now_ms)
        fleet = self._fleet
        if not self._is_local:
            if not has_expired(fleet, now_ms, self.policy.grace_s):
                return self._lease_of_my_own(now_ms) or self._refuse(fleet)
            self._go_silent(now_ms)
        return self._decide_locally(now_ms)

    def _decide_stamped(self, stamp: str, now_ms: int) -> Admitted | Refusal:
        generation, fleet = parse_generation(stamp), self._fleet
        # A stamp newer than the record known here was leased by a record that is still on its way.
        if generation is None or generation < (fleet.epoch, fleet.number) or generation <= self._probed:
            return self._refuse(fleet, f"stamp {stamp} is of a lease that is over or used")
        if fleet.phase == "forced-open":
            return self._refuse(fleet)
        return self._begin_probe(generation, now_ms)

    def _lease_of_my_own(self, now_ms: int) -> Admitted | None:
        return self._begin_probe((self._fleet.epoch, self._fleet.number), now_ms) if self._holds_lease else None

    @property
    def _holds_lease(self) -> bool:
        """The fleet's probe is leased to this process, and not used."""
        fleet = self._fleet
        mine = fleet.phase == "half-open" and fleet.probe_holder == self.reporter
        return mine and (fleet.epoch, fleet.number) > self._probed

    def _begin_probe(self, generation: tuple[int, int], now_ms: int) -> Admitted:
        """Use up a lease; the control plane is told, so that it waits for as long as the call may take."""
        self._probed = generation
        until_ms = now_ms + round(self._longest_call_s * 1000)
        begun = Tally(self.dependency, self.reporter, now_ms)
        self._report(begun, now_ms, f"{generation[0]}.{generation[1]}", "begun", until_ms)
        return Admitted(*generation, self._machine.state.number, "fleet")

    def _decide_locally(self, now_ms: int) -> Admitted | Refusal:
        machine = self._machine
        if machine.state.phase == "closed":
            return self._current
        leased = machine.demand(self.reporter, now_ms) or machine.tick(now_ms)
        if leased is None:
            return self._refuse(machine.state)
        # A lease that ran out without an outcome goes to the end of the line, where this process is alone.
        machine.demand(self.reporter, now_ms)
        self._moved(leased)
        return self._current._replace(probe="local")

    def _go_silent(self, now_ms: int) -> None:
        """The control plane is silent: go on as if this process alone had opened, and its time were over."""
        self._silent = True
        fleet = self._fleet
        self._restart_local(
            BreakerState(
                self.dependency,
                "open",
                0,
                0,
                f"the control plane is silent since {fleet.phase} for: {fleet.reason}",
                fleet.since_ms,
                until_ms=now_ms,
                openings=fleet.openings,
            )
        )
        self._tell(Transition(fleet, self._machine.state), LOCAL)

    def _record_other(
        self, admitted: Admitted, code: int, now_ms: int, error: str, retry_after_ms: int
    ) -> BreakerState | None:
        """Count the outcome of a probe, or of a call that an older generation admitted."""
        why = error or ("slow" if code else "")
        if admitted.probe == "fleet":
            tally = Tally(self.dependency, self.reporter, now_ms, calls=1)
            if code:
                tally.add_bad(code, why, retry_after_ms)
            self._report_probe(admitted, "failed" if code else "ok", tally, now_ms)
            return None
        if (admitted.epoch, admitted.number) == (self._fleet.epoch, self._fleet.number):
            # Late for the local machine, but of the fleet's generation: the fleet counts it.
            self._tally.calls += 1
            if code:
                self._tally.add_bad(code, error, retry_after_ms)
        machine = self._machine
        if admitted.probe != "local" or admitted.local != machine.state.number:
            return None
        changed = machine.probe(
            not code, machine.generation, now_ms, self._luck(), why=why, retry_after_ms=retry_after_ms
        )
        return self._moved(changed) if changed else None

    def _ignore(self, admitted: Admitted, now_ms: int) -> BreakerState | None:
        return self._record_other(admitted, 0, now_ms, "", 0) if admitted.probe else None

    def _moved(self, changed: Transition) -> BreakerState:
        """Follow the local machine."""
        self._settle()
        self._tell(changed, LOCAL)
        return changed.after

    def _tell(self, changed: Transition, decided_by: str) -> None:
        if changed.changes_phase:
            self.transitions[decided_by, changed.after.phase] += 1
        self._on_change(changed, decided_by)

    def _report_probe(self, admitted: Admitted, outcome: str, tally: Tally, now_ms: int) -> None:
        generation = f"{admitted.epoch}.{admitted.number}"
        # One that ended before it was reported needs no word about its beginning.
        for digest in [d for d in self._pending if d.probe == "begun" and d.generation == generation]:
            self._pending.remove(digest)
        self._report(tally, now_ms, generation, outcome)

    def _refuse(self, state: BreakerState, reason: str = "") -> Refusal:
        self._tally.short_circuited += 1
        return refusal_of(state, reason)

    def _restart_local(self, state: BreakerState) -> None:
        self._machine = BreakerMachine(self.policy, replace(state, number=self._machine.state.number + 1))
        self._settle()

    def _settle(self) -> None:
        """Compute what the quick paths of `admit` and `record` need."""
        fleet, local = self._fleet, self._machine.state
        self._forced = fleet.phase in _FREE_PHASES
        self._free = self._forced or (self._is_local and local.phase == "closed")
        self._current = Admitted(fleet.epoch, fleet.number, local.number)

    def _close_tally(self, now_ms: int) -> None:
        if not self._tally.is_empty:
            self._report(self._tally, now_ms, generation_of(self._fleet))
        self._tally = Tally(self.dependency, self.reporter, now_ms)

    def _report(self, tally: Tally, now_ms: int, generation: str, probe: str = "", probe_until_ms: int = 0) -> None:
        for name in _SUMS:
            self._totals[name] += getattr(tally, name)
        sequence = self._sequence.next(now_ms)
        self._pending.append(
            tally.digest(
                sequence, now_ms, generation=generation, phase=self.phase, probe=probe, probe_until_ms=probe_until_ms
            )
        )
