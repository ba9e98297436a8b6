"""The breaker of one dependency as a machine: outcomes and moments come in, transitions come out.

Pure: time (`now_ms`, milliseconds since the epoch) and luck (uniform in [0, 1)) are arguments. The control plane runs
one for the fleet and writes each transition to the `breakers` topic; a `Guard` runs one for its own process. Every
transition starts a new generation (epoch, number); what was admitted under an older one changes nothing any more.

Phases: `closed` counts and opens at its thresholds; `open` refuses until its time is over; `half-open` leases one probe
to one caller after another until a probe comes back (a lease is short, a probe that has begun is waited for as long as
its call may take); `forced-open`, `forced-closed` and `metrics-only` are an
operator's and stay until an operator changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from streams.breakers.policy import BreakerPolicy
from streams.breakers.refusal import has_expired
from streams.breakers.window import window_of
from streams.records.control import BreakerPhase, BreakerState

NOBODY = ""
_DEMANDS_KEPT = 64
_ORDERS_KEPT = 8
PROBE_CEILING_MS = 600_000
"""Longest time for which a probe that has begun is waited for, whatever its caller says."""
_REPORT_MS = 2_000
"""Time that the outcome of a probe has to get here after the latest moment at which its call ends."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a breaker; `after` carries reason and figures."""

    before: BreakerState
    after: BreakerState

    @property
    def changes_phase(self) -> bool:
        """False for a probe lease that only moved on."""
        return self.before.phase != self.after.phase


def closed(dependency: str, *, epoch: int = 0, number: int = 0, since_ms: int = 0) -> BreakerState:
    """Return the state in which every breaker begins."""
    return BreakerState(dependency, "closed", epoch, number, "never opened", since_ms)


def generation_of(state: BreakerState) -> str:
    """Return the generation as digests and probe stamps carry it: `epoch.number`."""
    return f"{state.epoch}.{state.number}"


def parse_generation(text: str) -> tuple[int, int] | None:
    """Return (epoch, number), or None when *text* is not a generation."""
    epoch, _, number = text.partition(".")
    return (int(epoch), int(number)) if epoch.isdecimal() and number.isdecimal() else None


class BreakerMachine:
    """Decides the phase of one dependency.

    Args:
        policy: Thresholds.
        state: Where to go on: `closed(name)`, or what the `breakers` topic holds.
        epoch: Epoch of the writer; transitions carry it, so a newer writer's are always newer.
        hears_callers: Others go on without this machine when it is silent for longer than `grace_s`. Afterwards it
            listens for as long again to what they found (see `heard`), so that it takes back no decision of theirs.
    """

    def __init__(
        self, policy: BreakerPolicy, state: BreakerState, *, epoch: int = 0, hears_callers: bool = False
    ) -> None:
        if epoch < state.epoch:
            raise ValueError(f"writer epoch {epoch} is older than epoch {state.epoch} of {state.dependency}'s record")
        self.policy = policy
        self.state = state
        self.window = window_of(policy)
        self._epoch = epoch
        self._demand: dict[str, int] = {}
        self._hears_callers = hears_callers
        self._listens_until_ms = 0

    @property
    def generation(self) -> tuple[int, int]:
        """(epoch, number) of the current state."""
        return self.state.epoch, self.state.number

    def record(self, code: int, now_ms: int, luck: float, retry_after_ms: int = 0) -> Transition | None:
        """Count one outcome (see `window`) of the current generation.

        Args:
            retry_after_ms: For how long the dependency asked to be left alone; an opening that follows honours it.
        """
        others_left = self.window.add(code, now_ms)
        # A success cannot raise a rate by itself; it can only complete the volume that a judgement needs.
        if code or others_left or self.window.calls == self.policy.minimum_calls:
            return self._judge(now_ms, luck, retry_after_ms)
        return None

    def record_many(
        self,
        calls: int,
        failures: int,
        slow: int,
        generation: tuple[int, int],
        now_ms: int,
        luck: float,
        *,
        retry_after_ms: int = 0,
    ) -> Transition | None:
        """Count a reporter's sums; those of another generation are discarded."""
        if generation != self.generation or self.state.phase not in {"closed", "metrics-only"}:
            return None
        self.window.add_many(calls, failures, slow, now_ms)
        return self._judge(now_ms, luck, retry_after_ms)

    def demand(self, caller: str, now_ms: int) -> Transition | None:
        """Note that *caller* has calls to make, so that the probe is leased to it; at once when the lease is free."""
        self._demand.pop(caller, None)
        self._demand[caller] = now_ms
        if len(self._demand) > _DEMANDS_KEPT:
            self._demand.pop(next(iter(self._demand)))
        state = self.state
        if state.phase == "half-open" and state.probe_holder == NOBODY and not state.probe_under_way:
            return self._lease(now_ms, f"{caller} has a call to make")
        return None

    def begin_probe(self, generation: tuple[int, int], until_ms: int, now_ms: int) -> Transition | None:
        """Note that the probe leased with *generation* went out, and wait for it; an older lease's changes nothing.

        Args:
            until_ms: When its call ends at the latest.
        """
        if self.state.phase != "half-open" or generation != self.generation or self.state.probe_under_way:
            return None
        holder = self.state.probe_holder
        return self._enter(
            "half-open",
            self.state.since_ms,
            f"the probe of {holder or 'a caller'} is under way",
            openings=self.state.openings,
            probe_expires_ms=now_ms + min(max(until_ms - now_ms, 0), PROBE_CEILING_MS) + _REPORT_MS,
            probe_under_way=generation_of(self.state),
        )

    def probe(
        self,
        ok: bool,
        generation: tuple[int, int],
        now_ms: int,
        luck: float,
        *,
        why: str = "",
        retry_after_ms: int = 0,
    ) -> Transition | None:
        """Take the outcome of the probe that was leased with *generation*; an older lease's changes nothing."""
        if not self._awaits(generation):
            return None
        if ok:
            return self._enter("closed", now_ms, "the probe succeeded", openings=self.state.openings)
        reason = f"the probe failed{f': {why}' if why else ''}"
        return self._open(now_ms, luck, reason, self.state.openings + 1, retry_after_ms)

    def void_probe(self, generation: tuple[int, int], now_ms: int) -> Transition | None:
        """Lease the probe again: the one that was leased with *generation* ended without an outcome."""
        if not self._awaits(generation):
            return None
        self._demand.pop(self.state.probe_holder, None)
        return self._lease(now_ms, "the probe ended without an outcome")

    def tick(self, now_ms: int) -> Transition | None:
        """Let time pass: an opening ends, a lease that nobody used moves on."""
        state = self.state
        if self._was_silent(now_ms):
            # The callers have decided for themselves meanwhile. What they found comes first (see `heard`).
            if not self._listens_until_ms:
                self._listens_until_ms = now_ms + round(self.policy.grace_s * 1000)
            if now_ms < self._listens_until_ms:
                return None
        if state.phase == "open" and now_ms >= state.until_ms:
            return self._lease(now_ms, f"open time is over ({(now_ms - state.since_ms) / 1000:.1f} s)")
        if state.phase == "half-open" and now_ms >= state.probe_expires_ms:
            holder = state.probe_holder
            # Whoever let the lease run out goes to the end of the line; alone in it, it gets the lease again only
            # when it asks again.
            self._demand.pop(holder, None)
            if state.probe_under_way:
                return self._lease(now_ms, "the probe that was under way has not reported")
            return self._lease(
                now_ms, f"{holder} made no call within the lease" if holder else "nobody has calls to make"
            )
        return None

    def heard(self, phase: str, generation: tuple[int, int], now_ms: int) -> Transition | None:
        """Take the word of a caller that made calls while the control plane was silent, and found the dependency well.

        Args:
            phase: What holds at the caller.
            generation: What it knew of the fleet.
        """
        if phase != "closed" or generation != self.generation or not self._was_silent(now_ms):
            return None
        reason = "its callers closed it while the control plane was silent"
        return self._enter("closed", now_ms, reason, openings=self.state.openings)

    def force(self, phase: BreakerPhase, by: str, reason: str, now_ms: int, *, order: str = "") -> Transition | None:
        """Set a phase by an operator's order; `closed` hands the breaker back to the machine, as if it never opened.

        Args:
            order: ID of the order. One that was followed before, and is delivered again, changes nothing.

        Raises:
            ValueError: A phase that only the machine can enter.
        """
        if phase in {"open", "half-open"}:
            raise ValueError(f"{phase!r} cannot be forced; use forced-open, forced-closed, metrics-only or closed")
        if order and order in self.state.orders:
            return None
        orders = (*self.state.orders, order)[-_ORDERS_KEPT:] if order else self.state.orders
        return self._enter(phase, now_ms, reason, changed_by=by, orders=orders)

    def _awaits(self, generation: tuple[int, int]) -> bool:
        """Tell whether the probe leased with *generation* is the one whose outcome decides."""
        if self.state.phase != "half-open":
            return False
        return generation == (parse_generation(self.state.probe_under_way) or self.generation)

    def _was_silent(self, now_ms: int) -> bool:
        """Tell whether this machine has not moved for so long that callers stopped waiting for it."""
        return self._hears_callers and has_expired(self.state, now_ms, self.policy.grace_s)

    def _judge(self, now_ms: int, luck: float, retry_after_ms: int) -> Transition | None:
        window, policy = self.window, self.policy
        if window.calls < policy.minimum_calls or self.state.phase != "closed":
            return None
        if window.failure_rate >= policy.failure_rate:
            reason = f"{window.failures} of {window.calls} calls failed (failure_rate {policy.failure_rate:g})"
        elif policy.slow_call_s is not None and window.slow_rate >= policy.slow_rate:
            reason = (
                f"{window.slow} of {window.calls} calls took {policy.slow_call_s:g} s or more "
                f"(slow_rate {policy.slow_rate:g})"
            )
        else:
            return None
        calm = now_ms - self.state.since_ms >= policy.calm_s * 1000
        return self._open(now_ms, luck, reason, 1 if calm else self.state.openings + 1, retry_after_ms)

    def _open(self, now_ms: int, luck: float, reason: str, openings: int, retry_after_ms: int) -> Transition:
        until_ms = now_ms + self.policy.open_time_ms(openings, luck, retry_after_ms)
        return self._enter("open", now_ms, reason, until_ms=until_ms, openings=openings)

    def _lease(self, now_ms: int, reason: str) -> Transition:
        lease_ms = round(self.policy.probe_lease_s * 1000)
        holder = next(reversed(self._demand), NOBODY)
        if holder and now_ms - self._demand[holder] > lease_ms:
            holder = NOBODY  # it asked so long ago that it may be gone
        since_ms = self.state.since_ms if self.state.phase == "half-open" else now_ms
        return self._enter(
            "half-open",
            since_ms,
            reason,
            openings=self.state.openings,
            probe_holder=holder,
            probe_expires_ms=now_ms + lease_ms,
        )

    def _enter(
        self,
        phase: BreakerPhase,
        since_ms: int,
        reason: str,
        *,
        until_ms: int = 0,
        openings: int = 0,
        probe_holder: str = NOBODY,
        probe_expires_ms: int = 0,
        probe_under_way: str = "",
        changed_by: str = "machine",
        orders: tuple[str, ...] | None = None,
    ) -> Transition:
        before, window = self.state, self.window
        self.state = replace(
            before,
            phase=phase,
            epoch=self._epoch,
            number=before.number + 1 if before.epoch == self._epoch else 1,
            reason=reason,
            since_ms=since_ms,
            until_ms=until_ms,
            failure_rate=window.failure_rate,
            slow_rate=window.slow_rate,
            calls=window.calls,
            openings=openings,
            probe_holder=probe_holder,
            probe_expires_ms=probe_expires_ms,
            probe_under_way=probe_under_way,
            changed_by=changed_by,
            orders=before.orders if orders is None else orders,
        )
        window.clear()
        self._listens_until_ms = 0
        if phase not in {"open", "half-open"}:
            self._demand.clear()
        return Transition(before, self.state)
