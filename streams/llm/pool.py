"""One pool at work: gives requests their turn, makes the calls, and keeps keys, breaker and buckets told.

Nothing runs here by itself: a request's own coroutine waits for its turn and then makes the call, and whatever changes
what may start next (a request, the end of a call, a timer, the fleet's breaker) asks the scheduler again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from pydantic import SecretStr

from streams.breakers import Guard
from streams.breakers.refusal import Refusal
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.expected_wait import expected_wait_s
from streams.llm.fair_queue import Held
from streams.llm.key_buckets import KeyBuckets
from streams.llm.limits import KeyLimits, Part
from streams.llm.pool_status import PoolCounts, PoolStatus
from streams.llm.prices import FREE, Price
from streams.llm.provider_errors import ProviderError, Refused, Throttled, Unauthorized, Unavailable, redact
from streams.llm.providers import OnText, Provider
from streams.llm.scheduler import Grant, Scheduler
from streams.llm.settings import PoolSettings
from streams.llm.turn import Down, Expired, Turn, Waiter
from streams.llm.usage import Usage

log = logging.getLogger(__name__)

KEY_OUT_S = 300.0
"""A key that the provider does not accept is tried again after this long: quotas are raised, and providers err."""

COOL_DOWN_S = 1.0
"""After a 429 that does not say when to come back; twice as long after each further one in a row."""

MAX_COOL_DOWN_S = 60.0
DOWN_POLL_S = 1.0
TIMER_S = 0.001
"""Timers of event loops are not finer than this."""

HELD_SAMPLE = 500
"""Held requests that are looked at to say how long the others will wait."""


Clock = Callable[[], float]


@dataclass(slots=True)
class Pool:
    """See the module.

    Attributes:
        guard: Breaker of the endpoint.
        clock: Seconds of a clock that only grows; *now* is the time of day.
    """

    name: str
    settings: PoolSettings
    secrets: Sequence[SecretStr]
    provider: Provider
    guard: Guard
    clock: Clock
    now: Clock
    weights: Mapping[str, float] = field(default_factory=dict)
    counts: PoolCounts = field(default_factory=PoolCounts)
    price: Price = FREE

    _scheduler: Scheduler[Waiter] = field(init=False)
    _throttles: list[int] = field(init=False)
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)
    _rings_at: float = field(init=False, default=math.inf)
    _down_since: float = field(init=False, default=math.inf)
    _last_words: str = field(init=False, default="")
    _looks_at: float = field(init=False, default=0.0)
    _why_down: str = field(init=False, default="")
    _allotted_until: float = field(init=False, default=math.inf)

    waits: Callable[[], None] = field(init=False, default=lambda: None)
    """Called when a request begins to wait."""

    def __post_init__(self) -> None:
        start, follow, limits = self.clock(), self.settings.follow_headers, self.settings.key_limits()
        keys = [
            KeyBuckets(
                f"{self.name}/{number}",
                limits,
                start,
                full=self.settings.start_full,
                follow=follow,
                connections=self.settings.connections,
            )
            for number in range(1, len(self.secrets) + 1)
        ]
        self._scheduler = Scheduler(keys, self.weights)
        self._throttles = [0] * len(keys)

    @property
    def down(self) -> str:
        """Why the pool cannot answer; empty when it can, as far as is known."""
        return self._why_down

    @property
    def lapsed(self) -> bool:
        """Whether the time is over for which this process may make calls; turns that it has are to be given back."""
        return self.clock() >= self._allotted_until

    async def turn(
        self, tenant: str, priority: str, estimate: Usage, *, arrived: float, deadline: float, hold_s: float
    ) -> Turn:
        """Wait until a call may be made.

        Args:
            arrived: When the request came first; a retry keeps its age.
            hold_s: Seconds to wait while the pool is down; with 0 it is left at once.

        Raises:
            Down: The pool cannot answer, and the request does not wait (any longer).
            Expired: *deadline* passed.
            NeverFits: The request is larger than the limits allow at once.
        """
        now = self.clock()
        if deadline <= now:
            raise Expired
        future: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        held = Held(Waiter(future, hold_s), tenant, priority, estimate, arrived, deadline)
        self._scheduler.add(held, now)
        self.pump()
        if not future.done():
            if self._why_down and hold_s <= 0:
                self._scheduler.remove(held)
                raise Down(self._why_down)
            self.waits()
        try:
            given = await future
        except asyncio.CancelledError:
            self._scheduler.remove(held)
            if not future.cancelled() and future.exception() is None:
                given = future.result()
                self._scheduler.cancel(given.grant, self.clock())
                self.guard.abandon(given.admitted, int(self.now() * 1000))
                self.pump()
            raise
        if not self.lapsed:
            return given
        # The process stood still between its turn and now, and others use meanwhile what was allotted to it.
        self.guard.abandon(given.admitted, int(self.now() * 1000))
        self.give_back(given)
        return await self.turn(tenant, priority, estimate, arrived=arrived, deadline=deadline, hold_s=hold_s)

    def give_back(self, turn: Turn) -> None:
        """Make no call after all. A breaker's probe that comes back so is leased again when its time is over."""
        self._scheduler.cancel(turn.grant, self.clock())
        self.pump()

    async def call(
        self, turn: Turn, request: ChatRequest, timeout_s: float, on_text: OnText | None = None
    ) -> ChatResponse:
        """Make the call that *turn* allows.

        Args:
            timeout_s: At most the pool's own is used; one that the caller's deadline cut short says nothing about the
                endpoint.

        Raises:
            ProviderError: See `streams.llm.provider_errors`.
        """
        grant, started = turn.grant, self.clock()
        limit_s = min(timeout_s, self.settings.timeout_s)
        used: Usage | None = None
        unclear = True
        self.counts.sent += 1
        try:
            response = await self._complete(request, self.secrets[grant.key].get_secret_value(), limit_s, on_text)
            used, unclear = response.usage, False
            self._throttles[grant.key] = 0
            self._scheduler.keys[grant.key].follow(response.headers, grant.reservation, self.clock())
            self._record(turn, started)
            return response
        except ProviderError as error:
            used = self._failed(turn, error, started, cut=limit_s < self.settings.timeout_s)
            unclear = isinstance(error, Unavailable) and error.kind == "timeout"
            raise
        except asyncio.CancelledError:
            self.guard.abandon(turn.admitted, int(self.now() * 1000))
            raise
        finally:
            now = self.clock()
            self.counts.ended += 1
            self.counts.busy_s += now - started
            if unclear and self.settings.concurrency is not None:
                self._end_later(grant, started + self.settings.abandoned_s - now)
            else:
                self._scheduler.settle(grant, used, now)
            self.pump()

    def _end_later(self, grant: Grant[Waiter], left_s: float) -> None:
        """Keep the place of a call that was given up here as long as it may be going on at the provider."""

        def end() -> None:
            self._scheduler.settle(grant, None, self.clock())
            self.pump()

        if left_s > 0:
            asyncio.get_running_loop().call_later(left_s, end)
        else:
            end()

    def pump(self) -> None:
        """Give a turn to every request that can have one now, and come back when the next one can."""
        now, scheduler = self.clock(), self._scheduler
        for leaver in scheduler.leaving(now):
            _dismiss(leaver.held, leaver.problem or Expired())
        wait = self._give_turns(now)
        if self._why_down:
            self._give_up(now)
        self._come_back(min(wait, scheduler.queue.next_deadline()), now)

    def set_limits(self, limits: KeyLimits, key: int | None = None) -> None:
        """Change the limits from now on: of every key, or of the one with that index.

        What is running goes on. A bucket keeps its level as far as there is room for it; a limit that is new starts
        empty. A request that no key will ever take any more leaves with `NeverFits`.

        Args:
            limits: Of a key as a whole, whatever part of it this process may use; see `PoolSettings.key_limits`.
            key: From 0, in the order of the pool's keys.

        Raises:
            IndexError: There is no such key.
        """
        self._scheduler.change(limits, self.clock(), key)
        self.pump()

    def allot(self, parts: Sequence[Part], until: float = math.inf) -> None:
        """Use only these parts of the keys' limits, one for each key, because other processes use the rest.

        Args:
            until: By the clock, when no call may start any more. What the buckets have left then is lost.
        """
        self._allotted_until = until
        self._scheduler.allot(parts, self.clock())
        self.pump()

    @property
    def scheduler(self) -> Scheduler[Waiter]:
        """What waits, runs, and is left; for those who look on."""
        return self._scheduler

    def status(self) -> PoolStatus:
        """Return what is held, what runs, and what is left of each limit."""
        now, scheduler = self.clock(), self._scheduler
        oldest = scheduler.queue.oldest()
        keys = tuple(
            replace(key.status(now), out_for_s=scheduler.out_for_s(index, now))
            for index, key in enumerate(scheduler.keys)
        )
        sample = [held.estimate for held in islice(scheduler.queue, HELD_SAMPLE)]
        return PoolStatus(
            self.name,
            len(scheduler),
            scheduler.running,
            now - oldest.arrived if oldest else 0.0,
            self._why_down,
            keys,
            replace(self.counts),
            math.inf if self._why_down else expected_wait_s(len(scheduler), sample, keys, self.counts.mean_call_s),
        )

    def stop(self) -> None:
        """Set no timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_turns(self, now: float) -> float:
        """Return when to try again."""
        if now >= self._allotted_until:
            return math.inf
        scheduler = self._scheduler
        while len(scheduler):
            if not scheduler.usable_keys(now):
                return min(self._go_down("the provider accepts none of its keys", now), scheduler.next_key_back(now))
            choice = scheduler.choose(now)
            if isinstance(choice, float):
                return choice
            admitted = self.guard.admit(int(self.now() * 1000))
            if isinstance(admitted, Refusal):
                until = now + max(0.05, admitted.until_ms / 1000 - self.now())
                return min(self._go_down(f"breaker {admitted.phase}: {admitted.reason}{self._last_words}", now), until)
            if self._why_down and not admitted.probe:
                log.warning("model pool %r is up again", self.name)
                self._why_down, self._down_since = "", math.inf
            grant = scheduler.take(choice, now)
            if grant.held.item.future.done():
                scheduler.cancel(grant, now)  # its request was cancelled a moment ago
                self.guard.abandon(admitted, int(self.now() * 1000))
            else:
                down_s = max(0.0, now - max(grant.held.added, self._down_since))
                grant.held.item.future.set_result(Turn(grant, admitted, down_s))
        return math.inf

    def _go_down(self, why: str, now: float) -> float:
        """Note that no call can be made; return when to look again."""
        if not self._why_down:
            log.warning("model pool %r is down: %s", self.name, why)
            self._down_since = self._looks_at = now
        self._why_down = why
        return now + DOWN_POLL_S

    def _give_up(self, now: float) -> None:
        """Let go of those that have waited for a pool that is down as long as they may."""
        if now < self._looks_at:
            return
        self._looks_at = now + DOWN_POLL_S / 2
        for held in tuple(self._scheduler.queue):
            if max(held.added, self._down_since) + held.item.hold_s <= now:
                self._scheduler.remove(held)
                _dismiss(held, Down(self._why_down))

    def _come_back(self, at: float, now: float) -> None:
        if at == math.inf or (self._timer is not None and self._rings_at <= at):
            return
        self.stop()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_later(max(at - now, TIMER_S), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.pump()

    async def _complete(self, request: ChatRequest, key: str, timeout_s: float, on_text: OnText | None) -> ChatResponse:
        try:
            return await self.provider.complete(request, key, timeout_s, on_text)
        except ProviderError:
            raise
        except Exception as error:
            # An adapter that breaks its promise must not end the role, which would meet the same request again.
            problem = f"{self.provider.name} raised {type(error).__name__}: {error}"
            raise Unavailable("malformed", redact(problem, key)) from error

    def _failed(self, turn: Turn, error: ProviderError, started: float, *, cut: bool) -> Usage | None:
        """Tell key and breaker what went wrong; return what the call used, None when nobody knows."""
        index, now = turn.grant.key, self.clock()
        key = self._scheduler.keys[index]
        key.follow(error.headers, turn.grant.reservation, now)
        match error:
            case Unavailable():
                self.counts.unavailable += 1
                self._last_words = f"; last error: {error}"
                if cut and error.kind == "timeout":
                    self.guard.abandon(turn.admitted, int(self.now() * 1000))
                else:
                    self._record(turn, started, error.kind, error.headers.retry_after_s or 0.0)
                return None
            case Throttled():
                self.counts.throttled += 1
                in_a_row = self._throttles[index]
                self._throttles[index] = in_a_row + 1
                pause_s = min(COOL_DOWN_S * 2.0 ** min(in_a_row, 10), MAX_COOL_DOWN_S)
                key.cool_down(pause_s if error.retry_after_s is None else error.retry_after_s, now)
            case Unauthorized():
                self._scheduler.take_out(index, now + KEY_OUT_S)
                left = self._scheduler.usable_keys(now)
                log.error(
                    "key %s is not accepted and not used for %.0f s; %d of %d keys left: %s",
                    key.key_name, KEY_OUT_S, left, len(self.secrets), error,
                )  # fmt: skip
        # The endpoint answered. For the breaker that only matters where it asked for a probe, or took the request.
        if turn.admitted.probe or isinstance(error, Refused):
            self._record(turn, started)
        return Usage(0, 0)

    def _record(self, turn: Turn, started: float, error: str = "", retry_after_s: float = 0.0) -> None:
        took_s, now_ms = self.clock() - started, int(self.now() * 1000)
        self.guard.record(turn.admitted, bool(error), took_s, now_ms, error, retry_after_s)


def _dismiss(held: Held[Waiter], error: Exception) -> None:
    if not held.item.future.done():
        held.item.future.set_exception(error)
