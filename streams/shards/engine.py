"""The engine of one shard: events in, effects out, the same for the same.

It owns the agents of its partition: which invocations run, wait or are parked, and what they remember. Running handlers
is `Handlers`' part. It talks to nobody: `ShardRole` hands it what has arrived and writes what it returns in one
transaction.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from streams.agents.agent import Agent
from streams.agents.outcome import Failure
from streams.agents.run import Request
from streams.app import App
from streams.errors import (
    Conflict,
    DeadlineExceeded,
    HandlerError,
    InvalidInput,
    PayloadTooLarge,
)
from streams.records import decode, decode_as, encode, encode_read, encoder_of, headers
from streams.records.ids import agent_id, input_digest
from streams.records.invocations import ChildOutcome, Invocation, Result
from streams.records.journal import Early, FlushMarks, Marker
from streams.records.signals import (
    Cancel,
    Order,
    SharedOutcome,
    SharedRequest,
    Signal,
    StateRead,
    StateWrite,
    StatusQuery,
)
from streams.records.steps import LlmResult, ToolNotice, ToolResult
from streams.shards.applied import Applied
from streams.shards.cold import Cold, StateArrived, Swept, waits_for_store
from streams.shards.dispatch import Admission, Dispatcher, fall_back
from streams.shards.effects import Counters, Event, ShardLimits, Write
from streams.shards.ending import Ending, failed, refused
from streams.shards.handlers import MISSING_VERSION, Handlers
from streams.shards.instances import Instance
from streams.shards.live import PARKED, QUEUED, RUNNING, Live
from streams.shards.mail import Mail
from streams.shards.markers import Markers
from streams.shards.memory import StateStore
from streams.shards.outbox import EncodeResult, Outbox
from streams.shards.outcomes import Outcomes
from streams.shards.questions import Questions
from streams.shards.shared import SharedRecordsOwner
from streams.shards.shared_steps import SharedSteps
from streams.shards.state_writes import StateWrites

NEVER = float("inf")
_encode_marker = encoder_of(Marker)

SPARE_WAKES = 10_000
"""Wakes of ended invocations that are kept before the heap is made anew."""

EXPIRY_SLACK_S = 60.0
"""Seconds for which what has expired may stay in a shard where nothing else happens, so that it goes in batches."""


class Engine:
    """The agents of one partition.

    Args:
        partition: Its number.
        partition_of: Partition of an agent ID.
        admit: Replica of the breakers, asked before a tool is called.
        encode_result: Value and content type of a result on the result topic.

    Attributes:
        partition_of: Partition of an agent ID or a shared record.
        sequence: Last number given to a state write.
        accepted: Last number given to an invocation.
        paused: Agent names whose new invocations wait.
        now: Seconds since the epoch of the step under way.
        one_at_a_time: A step that ends an invocation does not start the next one of its mailbox, but wakes it, so
            that it is known which of them ends the process.
    """

    def __init__(
        self,
        app: App,
        *,
        partition: int,
        partition_of: Callable[[str], int],
        limits: ShardLimits | None = None,
        admit: Admission = lambda dependency, now: "",
        encode_result: EncodeResult = lambda result: (encode(result), headers.AVRO_TYPE),
        counters: Counters | None = None,
    ) -> None:
        self.app = app
        self.limits = limits or ShardLimits()
        self.partition = partition
        self.counters = counters or Counters()
        self.epoch = 0
        self.sequence = 0
        self.accepted = 0
        self.now = 0.0
        self.one_at_a_time = False
        self.paused: set[str] = set()
        self.live: dict[str, Live] = {}
        self.instances: dict[str, Instance] = {}
        self.state = StateStore()
        self.cold = Cold(self)
        self.markers = Markers(
            window_s=self.limits.dedup_s, count=self.limits.dedup_count, max_bytes=self.limits.dedup_bytes
        )
        self.early: dict[str, Early] = {}
        self.outbox = Outbox(app.name, partition, partition_of, encode_result)
        self.writes = StateWrites(self)
        self.applied = Applied()
        self.shared = SharedRecordsOwner(self)
        self.shared_steps = SharedSteps(self)
        questions = Questions(self)
        self.handlers = Handlers(
            app,
            self,
            Dispatcher(self.limits, partition, partition_of, admit, self.shared_steps.ask),
            limits=self.limits,
            state=self.state,
            cold=self.cold,
            counters=self.counters,
        )
        self.outcomes = Outcomes(self)
        self._mail = Mail(self)
        self.partition_of = partition_of
        self._wakes: list[tuple[float, int, str]] = []
        self._live_bytes = 0
        self._dirty: dict[str, Live] = {}
        self._routes: dict[type[Any], Callable[[Any], None]] = {
            Invocation: self._on_invocation,
            ToolResult: self.outcomes.on_step,
            LlmResult: self.outcomes.on_step,
            ToolNotice: self.outcomes.on_notice,
            ChildOutcome: self.outcomes.on_child,
            Signal: self._mail.on_signal,
            Cancel: self._mail.on_cancel,
            Order: questions.on_order,
            StatusQuery: questions.on_query,
            StateRead: questions.on_state_read,
            StateWrite: questions.on_state_write,
            SharedRequest: self.shared.on_request,
            SharedOutcome: self.shared_steps.on_outcome,
            StateArrived: self.cold.on_arrival,
            Swept: self.cold.on_swept,
            FlushMarks: self.cold.on_flush_marks,
        }

    def step(self, events: Iterable[Event], now: float, *, wake: Collection[str] | None = None) -> list[Write]:
        """Apply what has arrived and what is due; return the records of the transaction.

        Args:
            events: In the order of their topics.
            now: Seconds since the epoch; an earlier value than before counts as the earlier one's.
            wake: Invocations that may be woken if they are due; None for all.
        """
        self._set_time(now)
        for event in events:
            if event.kind != "invocations":
                self.handle(event.record)
            elif not self._forwarded(event):
                self._on_invocation(event.record, event.raw)
        self._wake(wake)
        self._expire()
        self.shared_steps.flush()
        self.outbox.journal_all(self.applied.writes())
        for live in self._dirty.values():
            self._count_bytes(live, live.size_bytes)
            self.outbox.journal_all(live.writes(self.limits.chunk_bytes))
        self._dirty.clear()
        self.handlers.cool()
        return self.outbox.take()

    def handle(self, record: Any) -> None:
        """Apply one record, in the step under way."""
        route = self._routes.get(type(record))
        if route is None:
            self.counters.ignored += 1
        else:
            route(record)

    def _set_time(self, now: float) -> None:
        self.now = self.handlers.now = max(now, self.now)

    @property
    def next_wake(self) -> float | None:
        """When `step` should be called without an event, in seconds since the epoch; None for never."""
        while self._wakes:
            at, _, invocation = self._wakes[0]
            live = self.live.get(invocation)
            if live is not None and live.wake_at_s == at:
                return min(at, self._next_expiry())
            heapq.heappop(self._wakes)
        expiry = self._next_expiry()
        return expiry if expiry < NEVER else None

    def _next_expiry(self) -> float:
        """When something should be forgotten even if nothing else happens."""
        at = self.markers.next_expiry_s + EXPIRY_SLACK_S
        if self.early:
            first_at_ms = next(iter(self.early.values())).first_at_ms
            at = min(at, first_at_ms / 1000 + self.limits.early_s + EXPIRY_SLACK_S)
        return min(at, self.shared_steps.next_at)

    @property
    def saturated(self) -> bool:
        """New invocations should wait on their topic; step results, inbox and signals are welcome."""
        return (
            self.handlers.working >= self.limits.max_working
            or len(self.live) >= self.limits.max_live
            or self._live_bytes >= self.limits.max_live_bytes
        )

    @property
    def open_count(self) -> int:
        """Live invocations: running, waiting, parked."""
        return len(self.live)

    def adopt(self, lives: Iterable[Live], now: float) -> None:
        """Take over what a restore has found; handlers are run again when something comes for them."""
        self._set_time(now)
        for live in sorted(lives, key=lambda live: live.accepted):
            self.live[live.id] = live
            self._count_bytes(live, live.size_bytes)
            self.handlers.working += live.working
            if live.phase == PARKED and (live.reason.startswith(MISSING_VERSION) or waits_for_store(live)):
                live.wake_at_s = now
            self._seat(live)
            if live.wake_at_s:
                self.push_wake(live)
        for instance in list(self.instances.values()):
            if instance.active is None and instance.mailbox:
                head = instance.mailbox[0]
                head.wake_at_s = max(now, head.invocation.not_before_ms / 1000)
                self.push_wake(head)

    def _seat(self, live: Live) -> None:
        instance = self._instance(live)
        agent = self.app.agents.get(live.invocation.agent, {}).get(live.version)
        if live.phase == QUEUED:
            if live.invocation.not_before_ms / 1000 <= self.now:
                instance.mailbox.append(live)
        elif agent is not None and agent.concurrent:
            instance.readers[live.id] = live
        else:
            instance.active = live

    def _forwarded(self, event: Event) -> bool:
        invocation = event.record
        right = self.partition_of(invocation.agent_id)
        if right == self.partition:
            return False
        self.counters.forwarded += 1
        self.outbox.forward(invocation, right)
        return True

    def _on_invocation(self, invocation: Invocation, raw: bytes = b"") -> None:
        identity = invocation.id
        if (live := self.live.get(identity)) is not None:
            self._known(invocation, live.digest(), None)
        elif (marker := self.markers.get(identity)) is not None:
            self._known(invocation, marker.input_digest, marker)
        else:
            self._accept(invocation, raw)

    def _known(self, invocation: Invocation, known_digest: bytes, marker: Marker | None) -> None:
        if input_digest(invocation.input) != known_digest:
            self.counters.conflicts += 1
            error = Conflict(f"{invocation.id} was used before with another input; use another idempotency key")
            self._publish(refused(invocation, self.now, error), invocation)
        elif marker is not None:
            self.counters.repeated += 1
            self._publish(replace(decode_as(Result, marker.result), repeated=True), invocation)
        else:
            self.counters.repeated += 1

    def _accept(self, invocation: Invocation, raw: bytes) -> None:
        try:
            agent = self._check(invocation)
        except Exception as error:  # what a user's validator or key function raises refuses its input, not the shard
            result = refused(invocation, self.now, error)
            self._publish(result, invocation)
            self._mark(result)
            self._mail.take_early(invocation.id)
            return
        instance = self.instances.get(invocation.agent_id)
        if instance is not None and len(instance.mailbox) >= self.limits.max_mailbox:
            self.counters.deferred += 1
            full = HandlerError(f"{len(instance.mailbox)} invocations wait for {invocation.agent_id} (max_mailbox)")
            self._publish(refused(invocation, self.now, full, retry_after_s=self.limits.defer_s), invocation)
            return
        self.accepted += 1
        self.counters.accepted += 1
        live = Live(invocation, encode_read(invocation, raw), self.accepted, version=agent.version)
        self.live[live.id] = live
        live.wake_at_s = invocation.deadline_ms / 1000
        self.touch(live)
        if invocation.not_before_ms / 1000 > self.now:
            live.wake_at_s = min(live.wake_at_s, invocation.not_before_ms / 1000)
        else:
            self._enter(live, agent)
        self.push_wake(live)
        for data in self._mail.take_early(live.id):
            self.handle(decode(data))

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
        if invocation.deadline_ms / 1000 <= self.now:
            raise DeadlineExceeded(f"{invocation.id} arrived after its deadline; submit it with a later one")
        return agent

    def _enter(self, live: Live, agent: Agent[Any, Any] | None) -> None:
        instance = self._instance(live)
        if live.invocation.agent in self.paused:
            instance.mailbox.append(live)
        elif agent is not None and agent.concurrent:
            instance.readers[live.id] = live
            self.handlers.start(live)
        elif instance.active is None and not instance.mailbox:
            instance.active = live
            self.handlers.start(live)
        else:
            instance.mailbox.append(live)

    def next_of(self, instance: Instance, owner: str, *, alone: bool = False) -> None:
        """Start whoever has the turn at an agent instance.

        Args:
            alone: It is done in a step of its own.
        """
        if instance.turning:
            return  # one that has just started has ended at once; the loop below goes on
        if self.one_at_a_time and not alone:
            self._wake_next(instance, owner)
            return
        instance.turning = True
        while instance.active is None and instance.mailbox and instance.mailbox[0].invocation.agent not in self.paused:
            live = instance.mailbox.popleft()
            agent = self.app.agents.get(live.invocation.agent, {}).get(live.version)
            if agent is not None and agent.concurrent:
                instance.readers[live.id] = live
            else:
                instance.active = live
            self.handlers.start(live)
            if self.one_at_a_time:
                break
        instance.turning = False
        self._wake_next(instance, owner)

    def _wake_next(self, instance: Instance, owner: str) -> None:
        """Leave an instance to a later step, or forget it if nobody is there."""
        if instance.active is None and instance.mailbox:
            head = instance.mailbox[0]
            if head.invocation.agent not in self.paused:
                head.wake_at_s = self.now
                self.push_wake(head)
        elif instance.active is None and not instance.readers:
            self.instances.pop(owner, None)

    def end(self, live: Live, ending: Ending) -> None:
        """End an invocation: its result, its state, its marker; then whoever waits behind it."""
        if live.id not in self.live:
            return
        for record, value in ending.changes:
            self.writes.write(live.agent_id, record, value, writer=live.agent_id, invocation=live.id)
        encoded = self._publish(ending.result, live.invocation)
        for key in live.chunk_keys():
            self.outbox.journal(key, None)
        self._mark(ending.result, encoded)
        self.handlers.call_off(live, effects=True)
        self._forget(live)
        owner = live.agent_id
        instance = self.instances.get(owner)
        if instance is None:
            return
        if instance.active is live:
            instance.active = None
        instance.readers.pop(live.id, None)
        if live in instance.mailbox:
            instance.mailbox.remove(live)
        self.next_of(instance, owner)

    def _forget(self, live: Live) -> None:
        del self.live[live.id]
        self._dirty.pop(live.id, None)
        self._count_bytes(live, 0)
        self.handlers.forget(live)

    def _publish(self, result: Result, invocation: Invocation) -> bytes | None:
        self.counters.end(result)
        return self.outbox.result(result, invocation)

    def _mark(self, result: Result, encoded: bytes | None = None) -> None:
        data = encode(result) if encoded is None else encoded
        identity, marker = result.id, _encode_marker(result.input_digest, data, int(self.now * 1000))
        self.markers.put(identity, marker)
        self.outbox.journal(identity.encode(), marker)

    def _expire(self) -> None:
        for invocation in self.markers.expire(int(self.now * 1000)):
            self.outbox.journal(invocation.encode(), None)
        horizon = int((self.now - self.limits.early_s) * 1000)
        while self.early and (oldest := next(iter(self.early.items())))[1].first_at_ms < horizon:
            self._mail.take_early(oldest[0])

    def hold(self, live: Live, record: Any) -> None:
        """Keep what has come for a parked invocation until it goes on."""
        if isinstance(record, Signal) and len(live.held) >= self.limits.max_signals:
            self.counters.ignored += 1
            return
        live.held.append(encode(record))
        self.touch(live)

    def due(self, now: float) -> list[str]:
        """Return the invocations that `step` would wake now, earliest first."""
        due = sorted(entry for entry in self._wakes if entry[0] <= now)
        return [identity for at, _, identity in due if identity in self.live and self.live[identity].wake_at_s == at]

    def _wake(self, only: Collection[str] | None) -> None:
        later = []
        while self._wakes and self._wakes[0][0] <= self.now:
            at, _, invocation = entry = heapq.heappop(self._wakes)
            live = self.live.get(invocation)
            if live is None or live.wake_at_s != at:
                continue
            if only is not None and invocation not in only:
                later.append(entry)
                continue
            if live.invocation.deadline_ms / 1000 <= self.now:
                error = self.cold.too_late(live)
                if live.phase == RUNNING:
                    self.handlers.activate(live)
                if live.id in self.live:
                    self.end(live, failed(live, self.now, error))
            elif live.phase == QUEUED:
                self._due(live)
            elif live.phase == RUNNING:
                self._tick(live)
            elif live.reason.startswith(MISSING_VERSION) or waits_for_store(live):
                self.go_on(live)
        for entry in later:
            heapq.heappush(self._wakes, entry)

    def go_on(self, live: Live) -> None:
        """Let a parked invocation go on with what has come for it meanwhile."""
        live.phase, live.reason = RUNNING, ""
        self.touch(live)
        held = live.take_held()
        if not live.open and not live.closed:
            self.handlers.start(live)
        elif self.handlers.activate(live) is not None and live.run is not None:
            self.handlers.rest(live, live.run)
        for data in held:
            self.handle(decode(data))
        agent = self.app.agents.get(live.invocation.agent, {}).get(live.version)
        if live.run is not None and agent is not None:
            self.handlers.drive(live, agent)

    def _due(self, live: Live) -> None:
        live.wake_at_s = live.invocation.deadline_ms / 1000
        self.push_wake(live)
        self.touch(live)
        instance = self._instance(live)
        if live in instance.mailbox:
            self.next_of(instance, live.agent_id, alone=True)
        else:
            self._enter(live, self.app.agents.get(live.invocation.agent, {}).get(live.version))

    def _tick(self, live: Live) -> None:
        started = live.started_at_ms and (live.open or live.closed)
        if not started:
            self.handlers.start(live)
            return
        agent = self.handlers.activate(live)
        run = live.run
        if agent is None or run is None:
            return
        while live.deadlines and live.deadlines[0][0] <= self.now and live.run is run:
            step = heapq.heappop(live.deadlines)[1]
            if (request := run.waits_for(step)) is not None:
                failure = Failure(request.spec.dependency, "deadline", "no worker answered in time")
                self.handlers.give(live, fall_back(request, failure, self.now))
                self.handlers.drive(live, agent)
        self.handlers.drive(live, agent)

    def push_wake(self, live: Live) -> None:
        """Look at *live* at its `wake_at_s`."""
        heapq.heappush(self._wakes, (live.wake_at_s, live.accepted, live.id))
        if len(self._wakes) > 2 * len(self.live) + SPARE_WAKES:
            # Deadlines of those that have ended stay in the heap until they pass; an hour of them is too much.
            self._wakes = [(live.wake_at_s, live.accepted, live.id) for live in self.live.values() if live.wake_at_s]
            heapq.heapify(self._wakes)

    def _instance(self, live: Live) -> Instance:
        owner = live.agent_id
        instance = self.instances.get(owner)
        if instance is None:
            instance = self.instances[owner] = Instance()
        return instance

    def _count_bytes(self, live: Live, size: int) -> None:
        self._live_bytes += size - live.counted_bytes
        live.counted_bytes = size

    def recall(self, live: Live, request: Request) -> None:
        """Note a request that an earlier run of the handler has made."""
        self.shared_steps.recall(live, request)

    def touch(self, live: Live) -> None:
        """Rewrite the journal of *live* with this step."""
        if live.id in self.live:
            self._dirty[live.id] = live

    def set_aside(self, invocation: str, reason: str, now: float, record: Any) -> list[Write]:
        """End an invocation that keeps killing its process, without running it; return the writes.

        Args:
            record: What has arrived for it; an invocation that was not accepted yet is answered as failed too.
        """
        self._set_time(now)
        error = HandlerError(reason)
        if (live := self.live.get(invocation)) is not None:
            self.end(live, failed(live, self.now, error))
        elif isinstance(record, Invocation) and invocation not in self.markers:
            result = refused(record, self.now, error)
            self._publish(result, record)
            self._mark(result)
        return self.outbox.take()

    def close(self) -> None:
        """Drop all handlers, so that none is ended by the garbage collector in the midst of another one's step."""
        for live in self.live.values():
            if live.run is not None:
                live.run.close()
                live.run = None

    def suspects(self, event: Event) -> str:
        """Return the invocation that an event is for, empty where it is for none."""
        record = event.record
        if isinstance(record, Invocation):
            return record.id
        if isinstance(record, SharedOutcome):
            return record.origin
        return str(getattr(record, "invocation", "") or getattr(record, "parent", "") or getattr(record, "target", ""))
