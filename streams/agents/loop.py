"""The event loop that handlers run on: stepped by hand, with a clock that only completions move.

It knows ready callbacks, tasks and timers, nothing else. What would leave the process raises `NotDurable`, because it
would be done again when the handler is run again. Tasks and futures hash by their creation number, so that the sets
which asyncio keeps of them (TaskGroup, `wait`, `as_completed`) are walked in the same order on every run.

One loop serves one invocation. Step it from a plain callback, never from inside a task of the outer loop: from Python
3.12 on the interpreter keeps one current task a thread.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from asyncio import events, tasks
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, NoReturn, Protocol, TypeVar, cast

from streams.errors import HandlerError, NotDurable

T = TypeVar("T")

MAX_CALLBACKS = 1_000_000
"""Callbacks between two completions after which a handler is taken to be in an endless loop."""


MAX_CLOSES = 1_000
"""Waits in `finally` blocks after which a handler that is dropped is left as it is."""


class StepCounter(Protocol):
    """What the loop needs of the run that owns it."""

    def timer_set(self) -> int:
        """Count a timer as a step and return its number."""
        ...


class HandlerFuture(asyncio.Future[T]):
    """A future that hashes by creation number, which its loop sets at once: an `__init__` would triple its cost."""

    __slots__ = ("_number",)

    _number: int

    def __hash__(self) -> int:
        return self._number

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel, and let the loop know: a step may be waited for no longer."""
        cancelled = super().cancel(msg)
        if cancelled:
            cast(HandlerLoop, self.get_loop()).cancelled += 1
        return cancelled


class HandlerTask(asyncio.Task[T]):
    """A task that hashes by creation number."""

    __slots__ = ("_number",)

    def __init__(
        self,
        number: int,
        coro: Coroutine[Any, Any, T],
        loop: asyncio.AbstractEventLoop,
        name: str | None,
        context: Context | None,
    ) -> None:
        self._number = number
        super().__init__(coro, loop=loop, name=name or f"step-{number}", context=context)
        # asyncio's registry of all tasks is a set; tasks of many invocations share numbers and would collide in it.
        tasks._unregister_task(self)
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self._number


class LeanHandle(asyncio.Handle):
    """A handle without what debugging asks of it, which is half of what making and running one costs."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


_AbstractLoop: Any = asyncio.AbstractEventLoop  # type checkers cannot see that the refusals below complete it


class HandlerLoop(_AbstractLoop):  # type: ignore[misc]
    """A deterministic loop for one invocation.

    Args:
        owner: The run that it serves; gives each timer its step number.

    Attributes:
        cancelled: Futures that were cancelled since somebody last looked: steps that may be waited for no longer.
        clock: Seconds since the epoch at the last completion.
        main: The handler's own task. Once it is done nothing more is run: what it left behind must not change what it
            has returned.
    """

    __slots__ = ("_created", "_heap", "_ready", "_tasks", "_timers", "cancelled", "clock", "main", "owner")

    def __init__(self, owner: StepCounter) -> None:
        self.owner = owner
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._heap: list[tuple[float, int]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._created = 0
        self.cancelled = 0
        self.clock = 0.0
        self.main: asyncio.Task[Any] | None = None

    # -- what the run uses ------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Run callbacks until none is ready, or the handler has ended.

        Raises:
            HandlerError: The handler does not come to rest.
        """
        ready = self._ready
        if not ready:
            return
        outer = events._get_running_loop()
        events._set_running_loop(self)
        remaining, main = MAX_CALLBACKS, self.main
        try:
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
                    if main is not None and main.done():
                        return
                remaining -= 1
                if not remaining:
                    raise HandlerError(
                        f"the handler ran {MAX_CALLBACKS:,} callbacks without waiting for a step; "
                        "look for a loop around asyncio.sleep(0)"
                    )
        finally:
            events._set_running_loop(outer)

    def next_timer(self) -> tuple[float, int] | None:
        """Return due time and step of the earliest timer, None where there is none."""
        while self._heap:
            timer = self._timers.get(self._heap[0][1])
            if timer is not None and not timer.cancelled():
                return self._heap[0]
            self._timers.pop(heapq.heappop(self._heap)[1], None)
        return None

    def has_timer(self, step: int) -> bool:
        """Tell whether the timer of *step* is set."""
        timer = self._timers.get(step)
        return timer is not None and not timer.cancelled()

    def fire(self, step: int) -> None:
        """Make the timer of *step* ready."""
        self._ready.append(self._timers.pop(step))

    def abandon(self) -> None:
        """Close what is suspended, on this loop, so that `finally` blocks find themselves still inside a handler.

        The owner must refuse further steps before.
        """
        if suspended := [task for task in self._tasks if not task.done()]:
            outer = events._get_running_loop()
            events._set_running_loop(self)
            try:
                for task in suspended:
                    if not task.done():
                        _close(task.get_coro())
            finally:
                events._set_running_loop(outer)
        self.main = None
        self._tasks.clear()
        self._ready.clear()

    # -- what asyncio uses ------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the epoch at the last completion."""
        return self.clock

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = LeanHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.clock + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if when <= self.clock:
            self._ready.append(timer)
            return timer
        step = self.owner.timer_set()
        self._timers[step] = timer
        heapq.heappush(self._heap, (when, step))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by TimerHandle.cancel; the heap forgets it lazily."""

    def create_future(self) -> asyncio.Future[Any]:
        self._created += 1
        future: HandlerFuture[Any] = HandlerFuture(loop=self)
        future._number = self._created
        return future

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[T]:
        self._created += 1
        task = HandlerTask(self._created, coro, self, name, context)
        if len(self._tasks) >= 64:
            self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException) and not isinstance(error, Exception):
            raise error

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    async def shutdown_asyncgens(self) -> None:
        """Nothing to shut down: generators end with their run."""


def _close(coroutine: Any) -> None:
    """Close a coroutine for good: one that waits in a `finally` block refuses once for each such wait.

    If it were left suspended, the garbage collector would go on with it in the midst of another handler.
    """
    for _ in range(MAX_CLOSES):
        try:
            coroutine.close()
            return
        except BaseException:
            continue  # what a dying handler raises has no effect any more


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotDurable(f"{name} was used in an agent's handler, which is run again after a restart; put it in a tool")

    return refuse


_LEAVES_THE_PROCESS = [
    "run_in_executor",
    "call_soon_threadsafe",
    "getaddrinfo",
    "getnameinfo",
    "create_connection",
    "create_server",
    "sendfile",
    "start_tls",
    "create_unix_connection",
    "create_unix_server",
    "connect_accepted_socket",
    "create_datagram_endpoint",
    "connect_read_pipe",
    "connect_write_pipe",
    "subprocess_shell",
    "subprocess_exec",
    "add_reader",
    "remove_reader",
    "add_writer",
    "remove_writer",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendto",
    "sock_connect",
    "sock_accept",
    "sock_sendfile",
    "add_signal_handler",
    "remove_signal_handler",
    "set_default_executor",
    "run_forever",
    "run_until_complete",
    "stop",
    "close",
]

for _name in _LEAVES_THE_PROCESS:
    setattr(HandlerLoop, _name, _refuse(f"asyncio's {_name}"))


_BLOCKING_EVENTS = frozenset(
    [
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "subprocess.Popen",
        "os.system",
        "os.posix_spawn",
        "os.fork",
        "os.exec",
        "time.sleep",
        "_thread.start_new_thread",
        "urllib.Request",
    ]
)
_installed = False


def refuse_blocking_calls() -> None:
    """Make blocking I/O, threads and `time.sleep` inside handlers raise `NotDurable`, for this process and for good.

    Uses an audit hook (PEP 578), which sees the calls of any library. Outside handlers it changes nothing.
    """
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_audit)


def _audit(event: str, _: tuple[Any, ...]) -> None:
    if event in _BLOCKING_EVENTS and isinstance(events._get_running_loop(), HandlerLoop):
        raise NotDurable(
            f"{event} was used in an agent's handler, which is run again after a restart; put it in a tool"
        )
