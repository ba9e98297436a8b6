"""Running the handlers of live invocations.

Brings them to where their journal ends, gives them completions, answers or sends what they ask for. One completion at a
time; what is decided here itself (a fallback, a budget) is applied when the handler is at rest.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import replace
from typing import Any, Protocol

from streams.agents.agent import Agent
from streams.agents.run import CANCEL, START, TIMER, Request, Run
from streams.app import App
from streams.errors import HandlerError, NonDeterminism, PayloadTooLarge, StreamsError
from streams.records import decode_as
from streams.records.compiled import compile_maker
from streams.records.invocations import Invocation
from streams.records.journal import Completion
from streams.records.state import StateDelta
from streams.shards.cold import Cold
from streams.shards.dispatch import Dispatcher, match_kept, raised, started_child
from streams.shards.effects import Counters, ShardLimits, Write
from streams.shards.ending import Ending, conclude, failed
from streams.shards.live import PARKED, RUNNING, Live
from streams.shards.memory import StateStore
from streams.shards.outbox import Outbox

WORK = ("tool", "llm")
MISSING_VERSION = "this process has no version"
LOOK_AGAIN_S = 2.0
NO_STATE = StateStore().view("")
_make_completion = compile_maker(Completion)


class Desk(Protocol):
    """What running a handler needs of the engine."""

    outbox: Outbox

    def touch(self, live: Live) -> None:
        """Rewrite the journal of *live* with this step."""
        ...

    def push_wake(self, live: Live) -> None:
        """Look at *live* at its `wake_at_s`."""
        ...

    def end(self, live: Live, ending: Ending) -> None:
        """End *live*."""
        ...

    def recall(self, live: Live, request: Request) -> None:
        """Note a request that an earlier run of the handler has made."""
        ...


class Handlers:
    """The handlers of one shard.

    Attributes:
        now: Seconds since the epoch of the step under way.
        working: Invocations with a tool or LLM step out.
    """

    def __init__(
        self,
        app: App,
        desk: Desk,
        dispatcher: Dispatcher,
        *,
        limits: ShardLimits,
        state: StateStore,
        cold: Cold,
        counters: Counters,
    ) -> None:
        self.now = 0.0
        self.working = 0
        self._app = app
        self._desk = desk
        self._dispatcher = dispatcher
        self._limits = limits
        self._state = state
        self._cold = cold
        self._counters = counters
        self._hot: OrderedDict[str, Live] = OrderedDict()

    def start(self, live: Live) -> None:
        """Start the handler of an invocation that has its turn."""
        live.phase = RUNNING
        live.started_at_ms = int(self.now * 1000)
        self._counters.measures.start(live.invocation, self.now)
        agent = self.agent_of(live)
        if agent is None or not self._has_state(live, agent):
            return
        live.run = self._new_run(live, agent)
        live.run.take_replayed()
        self.give(live, _make_completion(0, START, live.invocation.agent, "ok", self.now, 0))
        self.drive(live, agent)

    def forget(self, live: Live) -> None:
        """Let go of an invocation that ends or is set aside."""
        self._hot.pop(live.id, None)
        self.set_working(live, False)
        if live.run is not None:
            live.run.close()
            live.run = None

    def _has_state(self, live: Live, agent: Agent[Any, Any]) -> bool:
        """Tell whether the handler can be run; otherwise its state is asked for, and it goes on when that has come."""
        if agent.state is None or live.snapshot is not None:
            return True
        if reason := self._cold.admit(live):
            self.park(live, reason)
        return not reason

    def _new_run(self, live: Live, agent: Agent[Any, Any]) -> Run:
        if agent.state is None:
            view = NO_STATE
        elif live.snapshot is None:
            view = self._state.view(live.agent_id)
        else:
            frozen = StateStore()
            for data in live.snapshot:
                frozen.put(decode_as(StateDelta, data))
            view = frozen.view(live.agent_id)
        return Run(live.invocation, live.incarnation, lambda run: agent.open(run, view), live.patches)

    def agent_of(self, live: Live) -> Agent[Any, Any] | None:
        """Return the handler's version that an invocation started with; None parks it until it is deployed."""
        agent = self._app.agents.get(live.invocation.agent, {}).get(live.version)
        if agent is None:
            self.park(live, f"{MISSING_VERSION} {live.version!r} of agent {live.invocation.agent!r}; deploy it")
        return agent

    def activate(self, live: Live) -> Agent[Any, Any] | None:
        """Bring the handler to where its journal ends; None when it cannot be, and the invocation is parked."""
        agent = self.agent_of(live)
        if agent is None:
            return None
        if live.run is None:
            if not self._has_state(live, agent):
                return None
            self._counters.replayed += 1
            live.run = run = self._new_run(live, agent)
            live.aliases.clear()
            live.deadlines.clear()
            try:
                for completion in live.completions():
                    run.apply(completion)
                    self._match(live, run)
                    if completion.kind == "signal":
                        live.seen.add(completion.cause)
                    elif completion.kind == CANCEL:
                        live.cancelled, live.reason = True, completion.error_message
                if run.asked != live.asked:
                    raise NonDeterminism(
                        f"the handler of {live.id} now asks for other steps after its last completion than it did; "
                        "deploy the code that it started with, or use ctx.patched"
                    )
            except HandlerError as error:
                self.park(live, f"{type(error).__name__}: {error}")
                return None
            self._recall(live, run)
            self._hot[live.id] = live
        return agent

    def _recall(self, live: Live, run: Run) -> None:
        """Note again what was known about the requests that an earlier run has sent."""
        run.take_replayed()
        run.take_abandoned("tool")  # the earlier run has called them off
        for request in run.pending.values():
            self._watch(live, request)
            self._desk.recall(live, request)
        live.children = sum(r.kind == "child" and not r.abandoned for r in run.pending.values())

    def _match(self, live: Live, run: Run) -> None:
        """Find again which call of an earlier incarnation each request repeats; as often as when they were sent."""
        for request in run.take_requests():
            if live.incarnation and request.kind == "tool" and request.spec.policy.effect == "at-most-once":
                match_kept(live, request)

    def _watch(self, live: Live, request: Request) -> None:
        if request.kind in WORK:
            deadline = request.spec.deadline_s(request.made_at_s, live.invocation.deadline_ms / 1000)
            if deadline < live.invocation.deadline_ms / 1000:
                heapq.heappush(live.deadlines, (deadline, request.step))

    def give(self, live: Live, completion: Completion) -> None:
        """Journal a completion and apply it to the handler."""
        run = live.run
        assert run is not None
        if completion.value is not None and len(completion.value) > self._limits.max_payload_bytes:
            completion = self._too_large(live, completion)
        if completion.asked != run.asked:
            completion = replace(completion, asked=run.asked)
        live.add(completion)
        self._desk.touch(live)
        if (request := run.pending.get(completion.step)) is not None:
            self._counters.measures.step(request, completion, self.now)
        try:
            run.apply(completion)
        except NonDeterminism as error:
            self.park(live, f"NonDeterminism: {error}")
        except HandlerError as error:
            self._desk.end(live, failed(live, self.now, error))
        except SystemExit:
            pass  # sys.exit() in a handler ends the handler: its task has the exception, as any other

    def _too_large(self, live: Live, completion: Completion) -> Completion:
        """What does not fit a journal record is an error of its step, wherever it comes from."""
        size, most = len(completion.value or b""), self._limits.max_payload_bytes
        what = f"what {live.id} gets from {completion.kind} {completion.name!r}"
        problem = str(PayloadTooLarge(what, size, most, "max_payload_bytes"))
        return replace(
            completion, status="raised", value=None, error_type=HandlerError.__name__, error_message=problem
        )  # fmt: skip

    def drive(self, live: Live, agent: Agent[Any, Any]) -> None:
        """Answer requests and fire timers, one completion at a time, until the handler waits for something outside."""
        run = live.run
        ready: deque[Completion] = deque()
        while run is not None and live.run is run:
            if run.finished:
                self._desk.end(live, conclude(live, agent, self.now, self._limits.max_payload_bytes))
                return
            for request in run.take_requests():
                self._decide(live, agent, request, ready)
            if ready:
                completion = ready.popleft()
                if run.waits_for(completion.step) is not None:
                    self.give(live, completion)
                continue
            timer = run.loop.next_timer()
            if timer is None or timer[0] > self.now:
                self.rest(live, run)
                return
            self.give(live, _make_completion(timer[1], TIMER, "", "ok", self.now, run.asked))

    def _decide(self, live: Live, agent: Agent[Any, Any], request: Request, ready: deque[Completion]) -> None:
        try:
            decided = self._dispatcher.decide(live, agent, request, self.now)
        except StreamsError as error:
            decided = raised(request, error, self.now)
        if isinstance(decided, Completion):
            self._counters.short_circuited += decided.cause == "open"
            ready.append(decided)
            return
        if decided is not None:
            self._desk.outbox.add(decided)
            if request.kind == "start-child":
                child = f"{request.name}/{_idempotency_key(decided)}"
                ready.append(started_child(request, child, self.now))
        self._watch(live, request)

    def rest(self, live: Live, run: Run) -> None:
        """Note what is needed to find an invocation again that waits: its hash, when to wake it."""
        live.asked = run.asked
        live.patches = run.patches
        for request in run.take_abandoned("tool"):
            self._desk.outbox.add(self._dispatcher.cancel(live, request))
        wake = live.invocation.deadline_ms / 1000
        if (timer := run.loop.next_timer()) is not None:
            wake = min(wake, timer[0])
        while live.deadlines and run.waits_for(live.deadlines[0][1]) is None:
            heapq.heappop(live.deadlines)
        if live.deadlines:
            wake = min(wake, live.deadlines[0][0])
        working = False
        for request in run.pending.values():
            if request.future.done():
                continue
            working = working or request.kind in WORK
            if request.kind == "shared":
                # What gathers updates is in memory only: the next owner of the shard must look at them again soon.
                wake = min(wake, self.now + LOOK_AGAIN_S)
        if wake != live.wake_at_s:
            live.wake_at_s = wake
            self._desk.push_wake(live)
        self.set_working(live, working)
        self._hot[live.id] = live
        self._hot.move_to_end(live.id)

    def call_off(self, live: Live, *, effects: bool) -> None:
        """Tell workers that nobody waits any more for the tool calls of an invocation that ends or starts over.

        Args:
            effects: Those included that may happen only once: what starts over waits for what became of them.
        """
        if live.run is None:
            return
        for request in live.run.pending.values():
            if request.kind == "tool" and (effects or request.spec.policy.effect != "at-most-once"):
                self._desk.outbox.add(self._dispatcher.cancel(live, request))

    def set_working(self, live: Live, working: bool) -> None:
        """Count an invocation that has a tool or LLM step out."""
        self.working += working - live.working
        live.working = working

    def cool(self) -> None:
        """Drop the handlers that have rested longest, beyond the bound; they are run again when something comes."""
        while len(self._hot) > self._limits.max_hot:
            live = self._hot.popitem(last=False)[1]
            if live.run is not None:
                live.run.close()
                live.run = None

    def park(self, live: Live, reason: str) -> None:
        """Set an invocation aside, visibly, until an operator or a deploy lets it go on."""
        live.phase, live.reason, live.wake_at_s = PARKED, reason, live.invocation.deadline_ms / 1000
        self.forget(live)
        self._desk.push_wake(live)
        self._desk.touch(live)


def _idempotency_key(write: Write) -> str:
    assert write.value is not None
    return decode_as(Invocation, write.value).idempotency_key
