"""The engine of one shard: events in, effects out, the same for the same.

It owns the agents of its partition: which invocations run, wait or are parked, what their handlers have been given, what
they remember. It talks to nobody: `ShardRole` hands it what has arrived and writes what it returns in one transaction.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from streams.agents.agent import Agent
from streams.agents.outcome import Failure
from streams.agents.run import CANCEL, START, TIMER, Request, Run
from streams.app import App
from streams.errors import (
    Conflict,
    DeadlineExceeded,
    HandlerError,
    InvalidInput,
    NonDeterminism,
    PayloadTooLarge,
    StreamsError,
    UnknownName,
)
from streams.records import decode, decode_as, encode, headers
from streams.records.ids import agent_id, agent_of, input_digest
from streams.records.invocations import ChildOutcome, Invocation, Result
from streams.records.journal import Completion, Early, Marker
from streams.records.signals import Answer, Cancel, Order, Signal, StatusQuery
from streams.records.state import StateDelta
from streams.records.steps import LlmResult, ToolResult
from streams.shards.dispatch import (
    Admission,
    Dispatcher,
    completed,
    fall_back,
    match_kept,
    raised,
    signal_completion,
    started_child,
)
from streams.shards.effects import Counters, Event, ShardLimits, Write
from streams.shards.ending import Ending, cancelled, conclude, failed, refused
from streams.shards.live import PARKED, QUEUED, RUNNING, Live, early_key, outcome_of
from streams.shards.memory import Markers, StateStore
from streams.shards.status import describe_live, describe_marker

WORK = ("tool", "llm")
MISSING_VERSION = "this process has no version"


@dataclass(slots=True)
class Instance:
    """One agent instance: who runs, who waits.

    Attributes:
        active: The invocation that runs alone.
        readers: Invocations of a concurrent agent.
    """

    active: Live | None = None
    mailbox: deque[Live] = field(default_factory=deque)
    readers: dict[str, Live] = field(default_factory=dict)


class Engine:
    """The agents of one partition.

    Args:
        partition: Its number; `partitions` is how many there are.
        partition_of: Partition of an agent ID.
        admit: Replica of the breakers, asked before a tool is called.
        encode_result: Value and content type of a result on the result topic.

    Attributes:
        sequence: Last number given to a state write.
        accepted: Last number given to an invocation.
        paused: Agent names whose new invocations wait.
    """

    def __init__(
        self,
        app: App,
        *,
        partition: int,
        partition_of: Callable[[str], int],
        limits: ShardLimits | None = None,
        admit: Admission = lambda dependency, now: "",
        encode_result: Callable[[Result], tuple[bytes, bytes]] = lambda result: (encode(result), headers.AVRO_TYPE),
    ) -> None:
        self.app = app
        self.limits = limits or ShardLimits()
        self.partition = partition
        self.counters = Counters()
        self.epoch = 0
        self._encode_result = encode_result
        self.sequence = 0
        self.accepted = 0
        self.paused: set[str] = set()
        self.live: dict[str, Live] = {}
        self.state = StateStore()
        self.markers = Markers(
            window_s=self.limits.dedup_s, count=self.limits.dedup_count, max_bytes=self.limits.dedup_bytes
        )
        self.early: dict[str, Early] = {}
        self._instances: dict[str, Instance] = {}
        self._hot: OrderedDict[str, Live] = OrderedDict()
        self._wakes: list[tuple[float, int, str]] = []
        self._working = 0
        self._live_bytes = 0
        self._now = 0.0
        self._out: list[Write] = []
        self._dirty: dict[str, Live] = {}
        self._partition_of = partition_of
        self._dispatcher = Dispatcher(self.limits, partition, partition_of, admit)
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Invocation: self._on_invocation,
            ToolResult: self._on_step_result,
            LlmResult: self._on_step_result,
            ChildOutcome: self._on_child,
            Signal: self._on_signal,
            Cancel: self._on_cancel,
            Order: self._on_order,
            StatusQuery: self._on_query,
        }

    # -- the one door --------------------------------------------------------------------------------------------------

    def step(self, events: Iterable[Event], now: float) -> list[Write]:
        """Apply what has arrived and what is due; return the records of the transaction.

        Args:
            events: In the order of their topics.
            now: Seconds since the epoch; an earlier value than before counts as the earlier one's.
        """
        self._now = now = max(now, self._now)
        out: list[Write] = []
        self._out = out
        for event in events:
            record = event.record
            if event.kind == "invocations" and self._forwarded(event):
                continue
            handler = self._handlers.get(type(record))
            if handler is None:
                self.counters.ignored += 1
            else:
                handler(record)
        self._wake()
        for invocation in self.markers.expire(int(now * 1000)):
            self._journal(invocation.encode(), None)
        for live in self._dirty.values():
            self._count_bytes(live, live.size_bytes)
            for key, value in live.writes(self.limits.chunk_bytes):
                self._journal(key, value)
        self._dirty.clear()
        self._cool()
        return out

    @property
    def next_wake(self) -> float | None:
        """When `step` should be called without an event, in seconds since the epoch; None for never."""
        while self._wakes:
            at, _, invocation = self._wakes[0]
            live = self.live.get(invocation)
            if live is not None and live.wake_at_s == at:
                return at
            heapq.heappop(self._wakes)
        return None

    @property
    def saturated(self) -> bool:
        """New invocations should wait on their topic; step results, inbox and signals are welcome."""
        return (
            self._working >= self.limits.max_working
            or len(self.live) >= self.limits.max_live
            or self._live_bytes >= self.limits.max_live_bytes
        )

    @property
    def open_count(self) -> int:
        """Live invocations: running, waiting, parked."""
        return len(self.live)

    def adopt(self, lives: Iterable[Live], now: float) -> None:
        """Take over what a restore has found; handlers are run again when something comes for them."""
        self._now = now
        for live in sorted(lives, key=lambda live: live.accepted):
            self.live[live.id] = live
            self._count_bytes(live, live.size_bytes)
            self._working += live.working
            if live.phase == PARKED and live.reason.startswith(MISSING_VERSION):
                live.phase, live.wake_at_s = RUNNING, now
            self._seat(live)
            if live.wake_at_s:
                self._push_wake(live)
        for instance in list(self._instances.values()):
            if instance.active is None and instance.mailbox:
                head = instance.mailbox[0]
                head.wake_at_s = max(now, head.invocation.not_before_ms / 1000)
                self._push_wake(head)

    def _seat(self, live: Live) -> None:
        instance = self._instance(live)
        agent = self.app.agents.get(live.invocation.agent, {}).get(live.version)
        if live.phase == QUEUED:
            if live.invocation.not_before_ms <= self._now * 1000:
                instance.mailbox.append(live)
        elif agent is not None and agent.concurrent:
            instance.readers[live.id] = live
        else:
            instance.active = live

    # -- invocations ---------------------------------------------------------------------------------------------------

    def _forwarded(self, event: Event) -> bool:
        invocation = event.record
        right = self._partition_of(invocation.agent_id)
        if right == self.partition:
            return False
        self.counters.forwarded += 1
        head = headers.internal("invocation", invocation.traceparent)
        self._out.append(Write("invocations", invocation.agent_id.encode(), encode(invocation), right, head))
        return True

    def _on_invocation(self, invocation: Invocation) -> None:
        if (live := self.live.get(invocation.id)) is not None:
            self._known(invocation, live.digest(), None)
        elif (marker := self.markers.get(invocation.id)) is not None:
            self._known(invocation, marker.input_digest, marker)
        else:
            self._accept(invocation)

    def _known(self, invocation: Invocation, known_digest: bytes, marker: Marker | None) -> None:
        if input_digest(invocation.input) != known_digest:
            self.counters.conflicts += 1
            error = Conflict(f"{invocation.id} was used before with another input; use another idempotency key")
            self._publish(refused(invocation, self._now, error), invocation)
        elif marker is not None:
            self.counters.repeated += 1
            self._publish(replace(decode_as(Result, marker.result), repeated=True), invocation)
        else:
            self.counters.repeated += 1

    def _accept(self, invocation: Invocation) -> None:
        try:
            agent = self._check(invocation)
        except (StreamsError, ValueError) as error:
            result = refused(invocation, self._now, error)
            self._publish(result, invocation)
            self._mark(result)
            return
        instance = self._instances.get(invocation.agent_id)
        if instance is not None and len(instance.mailbox) >= self.limits.max_mailbox:
            self.counters.deferred += 1
            full = HandlerError(f"{len(instance.mailbox)} invocations wait for {invocation.agent_id} (max_mailbox)")
            self._publish(refused(invocation, self._now, full, retry_after_s=self.limits.defer_s), invocation)
            return
        self.accepted += 1
        self.counters.accepted += 1
        live = Live(invocation, encode(invocation), self.accepted, version=agent.version)
        self.live[live.id] = live
        live.wake_at_s = invocation.deadline_ms / 1000
        self._touch(live)
        if invocation.not_before_ms > self._now * 1000:
            live.wake_at_s = min(live.wake_at_s, invocation.not_before_ms / 1000)
        else:
            self._enter(live, agent)
        self._push_wake(live)
        if (early := self.early.pop(live.id, None)) is not None:
            self._journal(early_key(live.id), None)
            for data in early.records:
                record = decode(data)
                self._handlers[type(record)](record)

    def _check(self, invocation: Invocation) -> Agent[Any, Any]:
        agent = self.app.latest(invocation.agent)
        if len(invocation.input) > self.limits.max_payload_bytes:
            raise PayloadTooLarge(
                f"input of {invocation.id}", len(invocation.input), self.limits.max_payload_bytes, "max_payload_bytes"
            )
        derived = agent.key_of(agent.parse(invocation.input))
        if derived != invocation.key:
            raise InvalidInput(
                f"the record's key says {invocation.agent_id!r}, its input belongs to "
                f"{agent_id(invocation.agent, derived)!r}; publish it under that key"
            )
        if invocation.deadline_ms <= self._now * 1000:
            raise DeadlineExceeded(f"{invocation.id} arrived after its deadline; submit it with a later one")
        return agent

    def _enter(self, live: Live, agent: Agent[Any, Any]) -> None:
        instance = self._instance(live)
        if live.invocation.agent in self.paused:
            instance.mailbox.append(live)
        elif agent.concurrent:
            instance.readers[live.id] = live
            self._start(live)
        elif instance.active is None and not instance.mailbox:
            instance.active = live
            self._start(live)
        else:
            instance.mailbox.append(live)

    def _start(self, live: Live) -> None:
        live.phase = RUNNING
        live.started_at_ms = int(self._now * 1000)
        agent = self._agent(live)
        if agent is None:
            return
        live.run = self._new_run(live, agent)
        live.run.take_replayed()
        self._give(live, Completion(0, START, live.invocation.agent, "ok", self._now, 0))
        self._drive(live, agent)

    def _next(self, instance: Instance, owner: str) -> None:
        while instance.active is None and instance.mailbox:
            live = instance.mailbox[0]
            if live.invocation.agent in self.paused:
                return
            instance.mailbox.popleft()
            agent = self.app.agents.get(live.invocation.agent, {}).get(live.version)
            if agent is not None and agent.concurrent:
                instance.readers[live.id] = live
            else:
                instance.active = live
            self._start(live)
        if instance.active is None and not instance.mailbox and not instance.readers:
            self._instances.pop(owner, None)

    # -- running handlers ----------------------------------------------------------------------------------------------

    def _new_run(self, live: Live, agent: Agent[Any, Any]) -> Run:
        if live.snapshot is None:
            view = self.state.view(live.invocation.agent_id)
        else:
            frozen = StateStore()
            for data in live.snapshot:
                frozen.put(decode_as(StateDelta, data))
            view = frozen.view(live.invocation.agent_id)
        return Run(live.invocation, live.incarnation, lambda run: agent.open(run, view), live.patches)

    def _agent(self, live: Live) -> Agent[Any, Any] | None:
        agent = self.app.agents.get(live.invocation.agent, {}).get(live.version)
        if agent is None:
            self._park(live, f"{MISSING_VERSION} {live.version!r} of agent {live.invocation.agent!r}; deploy it")
        return agent

    def _activate(self, live: Live) -> Agent[Any, Any] | None:
        """Bring the handler to where its journal ends; None when it cannot be, and the invocation is parked."""
        agent = self._agent(live)
        if agent is None:
            return None
        if live.run is None:
            self.counters.replayed += 1
            live.run = run = self._new_run(live, agent)
            live.aliases.clear()
            live.deadlines.clear()
            try:
                for completion in live.completions():
                    run.apply(completion)
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
                self._park(live, f"{type(error).__name__}: {error}")
                return None
            self._recall(live, run)
        self._hot[live.id] = live
        self._hot.move_to_end(live.id)
        return agent

    def _recall(self, live: Live, run: Run) -> None:
        """Note again what was known about the requests that an earlier run has sent."""
        for request in run.take_replayed():
            if request.kind == "tool" and request.spec.policy.effect == "at-most-once":
                match_kept(live, request)
        for request in run.pending.values():
            self._watch(live, request)
        live.children = sum(r.kind == "child" and not r.abandoned for r in run.pending.values())

    def _watch(self, live: Live, request: Request) -> None:
        if request.kind in WORK:
            deadline = request.spec.deadline_s(request.made_at_s, live.invocation.deadline_ms / 1000)
            if deadline < live.invocation.deadline_ms / 1000:
                heapq.heappush(live.deadlines, (deadline, request.step))

    def _give(self, live: Live, completion: Completion) -> None:
        run = live.run
        assert run is not None
        completion = replace(completion, asked=run.asked)
        live.add(completion)
        self._touch(live)
        try:
            run.apply(completion)
        except NonDeterminism as error:
            self._park(live, f"NonDeterminism: {error}")
        except HandlerError as error:
            self._end(live, failed(live, self._now, error))

    def _drive(self, live: Live, agent: Agent[Any, Any]) -> None:
        """Answer requests and fire timers, one completion at a time, until the handler waits for something outside."""
        run = live.run
        ready: deque[Completion] = deque()
        while run is not None and live.run is run and not run.finished:
            for request in run.take_requests():
                self._decide(live, agent, request, ready)
            if ready:
                completion = ready.popleft()
                if run.waits_for(completion.step) is not None:
                    self._give(live, completion)
                continue
            timer = run.loop.next_timer()
            if timer is None or timer[0] > self._now:
                break
            self._give(live, Completion(timer[1], TIMER, "", "ok", self._now, 0))
        if run is None or live.run is not run:
            return
        if run.finished:
            self._end(live, conclude(live, agent, self._now, self.limits.max_payload_bytes))
            return
        self._rest(live, run)

    def _decide(self, live: Live, agent: Agent[Any, Any], request: Request, ready: deque[Completion]) -> None:
        try:
            decided = self._dispatcher.decide(live, agent, request, self._now)
        except StreamsError as error:
            decided = raised(request, error, self._now)
        if isinstance(decided, Completion):
            self.counters.short_circuited += decided.cause == "open"
            ready.append(decided)
            return
        if decided is not None:
            self._out.append(decided)
            if request.kind == "start-child":
                child = f"{request.name}/{_idempotency_key(decided)}"
                ready.append(started_child(request, child, self._now))
        self._watch(live, request)

    def _rest(self, live: Live, run: Run) -> None:
        live.asked = run.asked
        live.patches = run.patches
        wake = live.invocation.deadline_ms / 1000
        if (timer := run.loop.next_timer()) is not None:
            wake = min(wake, timer[0])
        while live.deadlines and run.waits_for(live.deadlines[0][1]) is None:
            heapq.heappop(live.deadlines)
        if live.deadlines:
            wake = min(wake, live.deadlines[0][0])
        if wake != live.wake_at_s:
            live.wake_at_s = wake
            self._push_wake(live)
        self._set_working(live, any(r.kind in WORK and not r.abandoned for r in run.pending.values()))
        self._hot[live.id] = live
        self._hot.move_to_end(live.id)

    def _set_working(self, live: Live, working: bool) -> None:
        self._working += working - live.working
        live.working = working

    def _cool(self) -> None:
        while len(self._hot) > self.limits.max_hot:
            live = self._hot.popitem(last=False)[1]
            if live.run is not None:
                live.run.close()
                live.run = None

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _end(self, live: Live, ending: Ending) -> None:
        if live.id not in self.live:
            return
        for record, value in ending.changes:
            self._write_state(live, record, value)
        self._publish(ending.result, live.invocation)
        for key in live.chunk_keys():
            self._journal(key, None)
        self._mark(ending.result)
        self._forget(live)
        owner = live.invocation.agent_id
        instance = self._instances.get(owner)
        if instance is None:
            return
        if instance.active is live:
            instance.active = None
        instance.readers.pop(live.id, None)
        if live in instance.mailbox:
            instance.mailbox.remove(live)
        self._next(instance, owner)

    def _forget(self, live: Live) -> None:
        del self.live[live.id]
        self._dirty.pop(live.id, None)
        self._hot.pop(live.id, None)
        self._count_bytes(live, 0)
        self._set_working(live, False)
        if live.run is not None:
            live.run.close()
            live.run = None

    def _publish(self, result: Result, invocation: Invocation) -> None:
        finished = self.counters.finished
        finished[result.status] = finished.get(result.status, 0) + 1
        self.counters.degraded += result.degraded
        data = encode(result)
        value, content_type = self._encode_result(result)
        head = headers.public(
            "result",
            record_id=result.id,
            source=self.app.name,
            content_type=content_type,
            traceparent=result.traceparent,
        )
        self._out.append(Write("results", invocation.agent_id.encode(), value, self.partition, head))
        if invocation.parent and invocation.parent_awaits:
            parent = agent_of(invocation.parent)
            outcome = ChildOutcome(
                invocation.parent, invocation.parent_incarnation, invocation.parent_step, invocation.id, data
            )
            self._out.append(
                Write(
                    "inbox",
                    parent.encode(),
                    encode(outcome),
                    self._partition_of(parent),
                    headers.internal("child-outcome", result.traceparent),
                )
            )

    def _mark(self, result: Result) -> None:
        marker = Marker(result.input_digest, encode(result), int(self._now * 1000))
        self.markers.put(result.id, marker)
        self._journal(result.id.encode(), encode(marker))

    def _write_state(self, live: Live, record: str, value: bytes) -> None:
        owner = live.invocation.agent_id
        self._freeze_readers(owner)
        self.sequence += 1
        delta = StateDelta(
            owner=owner,
            record=record,
            value=value,
            epoch=self.epoch,
            sequence=self.sequence,
            writer=owner,
            at_ms=int(self._now * 1000),
            invocation=live.id,
            vector=self.state.next_vector(owner, record, owner),
        )
        self.state.put(delta)
        key = f"{owner}\x00{record}".encode()
        self._out.append(Write("state-deltas", key, encode(delta), self.partition, headers.internal("state-delta")))

    def _freeze_readers(self, owner: str) -> None:
        """Journal the state that concurrent readers have begun with, before it changes under them."""
        instance = self._instances.get(owner)
        for reader in instance.readers.values() if instance else ():
            if reader.snapshot is None:
                reader.snapshot = tuple(encode(delta) for delta in self.state.of(owner).deltas.values())
                self._touch(reader)

    def _park(self, live: Live, reason: str) -> None:
        live.phase, live.reason, live.wake_at_s = PARKED, reason, live.invocation.deadline_ms / 1000
        if live.run is not None:
            live.run.close()
            live.run = None
        self._hot.pop(live.id, None)
        self._set_working(live, False)
        self._push_wake(live)
        self._touch(live)

    # -- what comes for a live invocation ------------------------------------------------------------------------------

    def _on_step_result(self, result: ToolResult | LlmResult) -> None:
        live = self.live.get(result.invocation)
        if live is None:
            self.counters.ignored += 1
            return
        if live.phase == PARKED:
            self._hold(live, result)
            return
        kind = "tool" if isinstance(result, ToolResult) else "llm"
        if (agent := self._activate(live)) is None:
            self._hold(live, result)
            return
        step = result.step if result.incarnation == live.incarnation else self._kept_step(live, kind, result)
        run = live.run
        assert run is not None
        request = run.waits_for(step) if step is not None else None
        if request is None or request.kind != kind:
            self.counters.ignored += 1
            return
        self._give(live, self._complete(request, result))
        self._drive(live, agent)

    def _kept_step(self, live: Live, kind: str, result: ToolResult | LlmResult) -> int | None:
        """Return the step that waits for a call of an earlier incarnation, after noting its outcome."""
        for index, kept in enumerate(live.kept):
            if kind == "tool" and (kept.incarnation, kept.step) == (result.incarnation, result.step):
                if kept.completion is None:
                    bare = Request(kept.step, kind, kept.tool, b"", self.app.tools[kept.tool], _NO_FUTURE, 0.0)
                    outcome = self._complete(bare, result)
                    live.kept[index] = replace(kept, completion=encode(outcome))
                    self._touch(live)
                return live.aliases.get(index)
        return None

    def _complete(self, request: Request, result: ToolResult | LlmResult) -> Completion:
        fields = outcome_of(result)
        if result.status == "failed":
            failure = Failure(
                request.spec.dependency, result.cause, result.error_message, result.attempts, result.elapsed_s
            )
            return fall_back(request, failure, self._now)
        return replace(completed(request, self._now, status=result.status), **fields)

    def _on_child(self, outcome: ChildOutcome) -> None:
        live = self.live.get(outcome.parent)
        if live is None or outcome.incarnation != live.incarnation:
            self.counters.ignored += 1
            return
        agent = None if live.phase == PARKED else self._activate(live)
        if agent is None:
            self._hold(live, outcome)
            return
        run = live.run
        assert run is not None
        request = run.waits_for(outcome.step)
        if request is None or request.kind != "child":
            return
        live.children -= 1
        result = decode_as(Result, outcome.result)
        good = result.status == "succeeded"
        completion = replace(
            completed(request, self._now, value=result.value, status="ok" if good else "raised"),
            error_type=result.error_type or result.status,
            error_message=result.error_message,
            cause="" if good else outcome.child,
            degraded=result.degraded and good,
            input_tokens=result.input_tokens,
            output_tokens=result.output_tokens,
            cost=result.cost,
        )
        self._give(live, completion)
        self._drive(live, agent)

    def _on_signal(self, signal: Signal) -> None:
        live = self.live.get(signal.invocation)
        if live is None:
            self._keep_early(signal.invocation, signal)
            return
        if live.phase != RUNNING:
            if live.phase == PARKED:
                self._hold(live, signal)
            else:
                self._buffer(live, signal)
            return
        if (agent := self._activate(live)) is None:
            self._hold(live, signal)
            return
        if signal.signal_id in live.seen:
            return
        live.seen.add(signal.signal_id)
        run = live.run
        assert run is not None
        waiting = (
            r for r in list(run.pending.values()) if r.kind == "signal" and r.name == signal.name and not r.abandoned
        )
        if (request := next(waiting, None)) is None:
            self._buffer(live, signal)
            return
        self._give(live, signal_completion(signal, request, self._now))
        self._drive(live, agent)

    def _buffer(self, live: Live, signal: Signal) -> None:
        if len(live.signals) < self.limits.max_signals:
            live.signals.append(encode(signal))
            self._touch(live)
        else:
            self.counters.ignored += 1

    def _keep_early(self, invocation: str, record: Signal | Cancel) -> None:
        known = self.early.get(invocation)
        full = len(self.early) >= self.limits.max_early or (known and len(known.records) >= self.limits.max_signals)
        if self.markers.get(invocation) is not None or (known is None and full):
            self.counters.ignored += 1
            return
        first = known.first_at_ms if known else int(self._now * 1000)
        self.early[invocation] = early = Early((*(known.records if known else ()), encode(record)), first)
        self._journal(early_key(invocation), encode(early))
        horizon = int((self._now - self.limits.early_s) * 1000)
        while self.early and (oldest := next(iter(self.early.items())))[1].first_at_ms < horizon:
            del self.early[oldest[0]]
            self._journal(early_key(oldest[0]), None)

    def _on_cancel(self, cancel: Cancel) -> None:
        live = self.live.get(cancel.invocation)
        if live is None:
            self._keep_early(cancel.invocation, cancel)
            return
        if live.phase == QUEUED:
            self._end(live, cancelled(live, self._now, cancel.reason))
            return
        agent = None if live.phase == PARKED else self._activate(live)
        if agent is None:
            self._hold(live, cancel)
            return
        if live.cancelled:
            return
        live.cancelled, live.reason = True, cancel.reason
        self._give(
            live,
            Completion(0, CANCEL, cancel.requested_by, "raised", self._now, 0, error_message=cancel.reason),
        )
        self._drive(live, agent)

    def _hold(self, live: Live, record: Any) -> None:
        live.held.append(encode(record))
        self._touch(live)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        while self._wakes and self._wakes[0][0] <= self._now:
            at, _, invocation = heapq.heappop(self._wakes)
            live = self.live.get(invocation)
            if live is None or live.wake_at_s != at:
                continue
            if live.invocation.deadline_ms <= self._now * 1000:
                error = DeadlineExceeded(f"{live.id} did not end before its deadline")
                if live.phase == RUNNING:
                    self._activate(live)
                if live.id in self.live:
                    self._end(live, failed(live, self._now, error))
            elif live.phase == QUEUED:
                self._due(live)
            elif live.phase == RUNNING:
                self._tick(live)

    def _due(self, live: Live) -> None:
        live.wake_at_s = live.invocation.deadline_ms / 1000
        self._push_wake(live)
        self._touch(live)
        instance = self._instance(live)
        if live in instance.mailbox:
            self._next(instance, live.invocation.agent_id)
        elif (agent := self.app.agents.get(live.invocation.agent, {}).get(live.version)) is not None:
            self._enter(live, agent)
        else:
            self._agent(live)

    def _tick(self, live: Live) -> None:
        started = live.started_at_ms and (live.open or live.closed)
        if not started:
            self._start(live)
            return
        agent = self._activate(live)
        run = live.run
        if agent is None or run is None:
            return
        while live.deadlines and live.deadlines[0][0] <= self._now and live.run is run:
            step = heapq.heappop(live.deadlines)[1]
            if (request := run.waits_for(step)) is not None:
                failure = Failure(request.spec.dependency, "deadline", "no worker answered in time")
                self._give(live, fall_back(request, failure, self._now))
        self._drive(live, agent)

    def _push_wake(self, live: Live) -> None:
        heapq.heappush(self._wakes, (live.wake_at_s, live.accepted, live.id))

    # -- operators and queries -----------------------------------------------------------------------------------------

    def _on_order(self, order: Order) -> None:
        try:
            message = self._obey(order)
            status = "ok"
        except StreamsError as error:
            status, message = "refused", str(error)
        if order.client:
            self._answer(Answer(order.client, order.request_id, status, message=message))

    def _obey(self, order: Order) -> str:
        if order.action in ("pause", "unpause"):
            return self._pause(order)
        live = self.live.get(order.target)
        if live is None:
            raise UnknownName(f"{order.target} is not live in shard {self.partition}")
        if order.action == "fail":
            error = HandlerError(f"failed by {order.ordered_by}: {order.reason}")
            self._end(live, failed(live, self._now, error))
            return "failed"
        if order.action == "resume":
            if live.phase != PARKED:
                raise InvalidInput(f"{live.id} is {live.phase}, not parked; there is nothing to resume")
            self._unpark(live)
            return live.phase
        if order.action == "restart":
            self._restart(live)
            return "restarted"
        raise InvalidInput(f"{order.action!r} is not one of resume, restart, fail, pause, unpause")

    def _unpark(self, live: Live) -> None:
        live.phase, live.reason = RUNNING, ""
        self._touch(live)
        if not live.open and not live.closed:
            self._start(live)
            return
        agent = self._activate(live)
        if agent is None:
            return
        held, live.held = live.held, []
        if live.run is not None:
            self._rest(live, live.run)
        for data in held:
            record = decode(data)
            self._handlers[type(record)](record)
        if live.run is not None:
            self._drive(live, agent)

    def _restart(self, live: Live) -> None:
        if live.phase == QUEUED:
            raise InvalidInput(f"{live.id} has not started; there is nothing to restart")
        outcomes = {c.step: c for c in live.completions() if c.kind == "tool"}
        live.kept = [
            replace(kept, completion=encode(outcomes[kept.step]))
            if kept.incarnation == live.incarnation and kept.step in outcomes
            else kept
            for kept in live.kept
        ]
        for data in live.held:
            record = decode(data)
            if isinstance(record, ToolResult):
                self._kept_step(live, "tool", record)
        for key in live.chunk_keys():
            if not key.endswith(b"\x00-1"):
                self._journal(key, None)
        if live.run is not None:
            live.run.close()
            live.run = None
        live.incarnation += 1
        live.closed, live.open, live.open_bytes, live.chunks = [], [], 0, 0
        live.held, live.asked, live.reason, live.patches = [], 0, "", frozenset()
        live.snapshot, live.snapshot_written, live.cancelled, live.children = None, False, False, 0
        live.aliases.clear()
        live.deadlines.clear()
        live.version = self.app.latest(live.invocation.agent).version
        self._touch(live)
        self._start(live)

    def _pause(self, order: Order) -> str:
        if order.action == "pause":
            self.paused.add(order.target)
            return "paused"
        self.paused.discard(order.target)
        for owner, instance in list(self._instances.items()):
            if owner.startswith(f"{order.target}/"):
                self._next(instance, owner)
        return "unpaused"

    def _on_query(self, query: StatusQuery) -> None:
        live, marker = self.live.get(query.invocation), self.markers.get(query.invocation)
        if live is not None:
            answer = Answer(
                query.client,
                query.request_id,
                "ok",
                orjson.dumps(describe_live(live, self._position(live), self._now)),
            )
        elif marker is not None:
            answer = Answer(
                query.client, query.request_id, "ok", orjson.dumps(describe_marker(marker)), result=marker.result
            )
        else:
            answer = Answer(query.client, query.request_id, "unknown", message=f"{query.invocation} is not known here")
        self._answer(answer)

    def _position(self, live: Live) -> int:
        instance = self._instances.get(live.invocation.agent_id)
        return instance.mailbox.index(live) + 1 if instance and live in instance.mailbox else 0

    def _answer(self, answer: Answer) -> None:
        self._out.append(Write("answers", answer.client.encode(), encode(answer), -1, headers.internal("answer")))

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def _instance(self, live: Live) -> Instance:
        owner = live.invocation.agent_id
        instance = self._instances.get(owner)
        if instance is None:
            instance = self._instances[owner] = Instance()
        return instance

    def _count_bytes(self, live: Live, size: int) -> None:
        self._live_bytes += size - live.counted_bytes
        live.counted_bytes = size

    def _touch(self, live: Live) -> None:
        if live.id in self.live:
            self._dirty[live.id] = live

    def _journal(self, key: bytes, value: bytes | None) -> None:
        self._out.append(Write("journal", key, value, self.partition))

    def set_aside(self, invocation: str, reason: str, now: float, record: Any) -> list[Write]:
        """End an invocation that keeps killing its process, without running it; return the writes.

        Args:
            record: What has arrived for it; an invocation that was not accepted yet is answered as failed too.
        """
        self._now, self._out = max(now, self._now), []
        error = HandlerError(reason)
        if (live := self.live.get(invocation)) is not None:
            self._end(live, failed(live, self._now, error))
        elif isinstance(record, Invocation) and self.markers.get(invocation) is None:
            result = refused(record, self._now, error)
            self._publish(result, record)
            self._mark(result)
        return self._out

    def suspects(self, event: Event) -> str:
        """Return the invocation that an event is for, empty where it is for none."""
        record = event.record
        if isinstance(record, Invocation):
            return record.id
        return str(getattr(record, "invocation", "") or getattr(record, "parent", ""))


def _idempotency_key(write: Write) -> str:
    assert write.value is not None
    return decode_as(Invocation, write.value).idempotency_key


_NO_FUTURE: Any = None
