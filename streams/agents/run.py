"""One handler being run over its journal: the steps it asks for, the completions it is given.

Pure: given the same input, state and completions it makes the same requests in the same order. What to do about a
request (send it, answer it) is the engine's decision; see `streams.shards.engine`.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast
from zlib import crc32

from streams.agents.loop import HandlerLoop
from streams.agents.outcome import Failure
from streams.errors import HandlerError, NonDeterminism
from streams.records.invocations import Invocation
from streams.records.journal import Completion

START, TIMER, CANCEL = "start", "timer", "cancel"


class StepSpec(Protocol):
    """How the declaration behind a step (a tool, a model, an agent, a signal) takes part in it."""

    def resolve(self, completion: Completion) -> Any:
        """Return what the handler gets, or raise what it sees."""
        ...


class FallbackSpec(StepSpec, Protocol):
    """A step of a dependency that can fail."""

    dependency: str
    lane: str

    def fall_back(self, failure: Failure, payload: bytes) -> bytes:
        """Return the JSON of the fallback's value.

        Raises:
            Exception: Whatever the user's fallback function raises.
        """
        ...

    def deadline_s(self, made_at_s: float, invocation_deadline_s: float) -> float:
        """Return when the engine stops waiting for an answer and falls back, in seconds since the epoch."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """A step that a handler asks for; nothing changes it. Made for each step, so that freezing it would count.

    Attributes:
        kind: `tool`, `llm`, `child`, `start-child`, `signal`, `shared`.
        payload: JSON of what is asked.
        made_at_s: The handler's clock when it asked.
    """

    step: int
    kind: str
    name: str
    payload: bytes
    spec: Any
    future: asyncio.Future[Any]
    made_at_s: float

    @property
    def abandoned(self) -> bool:
        """The handler has stopped waiting (a timeout, a cancelled task)."""
        return self.future.done()


class Run:
    """A handler in progress.

    Args:
        invocation: What it was asked.
        incarnation: How often it was restarted; part of the identity of its steps.
        main: Makes the handler's coroutine; called once, on the handler's loop.
        patches: IDs of `patched` calls that earlier runs answered with True.

    Attributes:
        collect: Set by `main` once state is loaded; returns the records that the handler changed.
        asked: Rolling hash of the requests made so far.
        replaying: Completions from the journal are being applied; requests were sent by an earlier run.
        updating: The function of an update of a shared record is being called.
    """

    __slots__ = (
        "_answers",
        "_fresh",
        "_main",
        "asked",
        "closed",
        "collect",
        "cost",
        "degraded",
        "incarnation",
        "input_tokens",
        "invocation",
        "loop",
        "output_tokens",
        "patches",
        "pending",
        "replaying",
        "steps",
        "task",
        "updating",
    )

    def __init__(
        self, invocation: Invocation, incarnation: int, main: Callable[[Run], Any], patches: frozenset[str]
    ) -> None:
        self.invocation = invocation
        self.incarnation = incarnation
        self.collect: Callable[[], list[tuple[str, bytes]]] = list
        self._main = main
        self.loop = HandlerLoop(self)
        self.pending: dict[int, Request] = {}
        self._fresh: list[Request] = []
        self._answers: dict[str, bool] = {}
        self.patches = patches
        self.asked = 0
        self.steps = 0
        self.replaying = True
        self.closed = False
        self.degraded = False
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost = 0.0
        self.task: asyncio.Task[Any] | None = None
        self.updating = False

    # -- used by steps, inside the handler ----------------------------------------------------------------------------

    def request(self, kind: str, name: str, payload: bytes, spec: Any) -> asyncio.Future[Any]:
        """Ask for a step; the future resolves when its completion is applied."""
        if self.closed:
            raise HandlerError(f"{self.invocation.id} has ended; it can take no more steps")
        if self.updating:
            self.check_free(f"{kind} {name!r}")
        self.steps += 1
        self.asked = crc32(payload, crc32(f"{kind}:{name}".encode(), self.asked))
        future = self.loop.create_future()
        request = Request(self.steps, kind, name, payload, spec, future, self.loop.clock)
        self.pending[self.steps] = request
        self._fresh.append(request)
        return future

    def timer_set(self) -> int:
        """Count a timer as a step."""
        self.steps += 1
        self.asked = crc32(b"timer", self.asked)
        return self.steps

    def patched(self, patch: str) -> bool:
        """Tell whether code that was changed under *patch* runs in its new form; the first answer stands."""
        self.check_free("ctx.patched")
        answer = self._answers.get(patch)
        if answer is None:
            answer = not self.replaying or patch in self.patches
            self._answers[patch] = answer
            if answer:
                self.patches |= {patch}
        return answer

    def check_free(self, what: str) -> None:
        """Refuse what is asked of the run inside the function of an update, which is not called when it is run again.

        Raises:
            HandlerError: It is being called.
        """
        if self.updating:
            raise HandlerError(f"{what} inside the function of an update; ask for it before, and pass the value in")

    # -- used by the engine -------------------------------------------------------------------------------------------

    def apply(self, completion: Completion) -> None:
        """Set the clock, give the handler one completion, and run until it is at rest.

        Raises:
            NonDeterminism: The handler has not made the requests that the journal says it had made.
            HandlerError: The handler does not come to rest.
        """
        if completion.asked != self.asked:
            raise NonDeterminism(
                f"before completion {completion.kind} {completion.name!r} (step {completion.step}) the handler "
                f"made other requests than now; deploy the code that {self.invocation.id} started with, "
                "or use ctx.patched"
            )
        if completion.at_s > self.loop.clock:
            self.loop.clock = completion.at_s
        self._deliver(completion)
        self.degraded = self.degraded or completion.degraded
        self.input_tokens += completion.input_tokens
        self.output_tokens += completion.output_tokens
        self.cost += completion.cost
        self.loop.drain()

    def _deliver(self, completion: Completion) -> None:
        match completion.kind:
            case "start":
                self.task = self.loop.main = self.loop.create_task(self._main(self), name=self.invocation.id)
            case "timer":
                if not self.loop.has_timer(completion.step):
                    raise self._mismatch(completion)
                self.loop.fire(completion.step)
            case "cancel":
                assert self.task is not None
                self.task.cancel(completion.error_message)
            case kind:
                request = self.pending.pop(completion.step, None)
                if request is None or request.kind != kind or request.name != completion.name:
                    raise self._mismatch(completion)
                if not request.future.done():
                    resolve(request, completion)

    def _mismatch(self, completion: Completion) -> NonDeterminism:
        return NonDeterminism(
            f"step {completion.step} of {self.invocation.id} was {completion.kind} {completion.name!r} in the journal "
            "and is something else now; deploy the code that it started with, or use ctx.patched"
        )

    def take_requests(self) -> list[Request]:
        """Return the requests made since the last call, without those already abandoned."""
        fresh, self._fresh = self._fresh, []
        return [request for request in fresh if not request.future.done()]

    def take_replayed(self) -> list[Request]:
        """End the replay: return all requests made in it, in order; an earlier run has sent them."""
        fresh, self._fresh = self._fresh, []
        self.replaying = False
        return fresh

    @property
    def finished(self) -> bool:
        """The handler has returned or raised."""
        return self.task is not None and self.task.done()

    def take_abandoned(self, kind: str) -> list[Request]:
        """Return, and forget, the requests of a kind that the handler has stopped waiting for."""
        if not self.loop.cancelled:
            return []
        self.loop.cancelled = 0
        found = [request for request in self.pending.values() if request.kind == kind and request.abandoned]
        for request in found:
            del self.pending[request.step]
        return found

    def waits_for(self, step: int) -> Request | None:
        """Return the pending request of a step, None when nobody waits for it."""
        request = self.pending.get(step)
        if request is not None and request.abandoned:
            del self.pending[step]
            return None
        return request

    def close(self) -> None:
        """Drop the handler; what it still does while it is closed asks for nothing."""
        self.closed = True
        self.loop.abandon()
        # Nothing runs any more. Otherwise each run would be a cycle, left to the garbage collector.
        self.task = None
        self._main = _ended
        self.collect = list
        self.pending = {}
        del self.loop.owner


def _ended(run: Run) -> Any:
    raise HandlerError(f"{run.invocation.id} has ended")


def resolve(request: Request, completion: Completion) -> None:
    """Settle a request's future with what the declaration makes of the completion."""
    try:
        value = request.spec.resolve(completion)
    except Exception as error:
        request.future.set_exception(error)
    else:
        request.future.set_result(value)


def current_run() -> Run | None:
    """Return the run whose handler is calling, None outside of handlers."""
    loop = events._get_running_loop()
    return cast(Run, loop.owner) if type(loop) is HandlerLoop else None
