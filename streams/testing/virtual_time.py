"""An asyncio event loop in virtual time, whose interleavings are drawn from a seed.

Nothing waits: when no callback is ready, the clock jumps to the next timer. When several simulated processes have
callbacks ready, a seeded draw decides which one goes on; within a process the order is asyncio's, first come first
served, since programs may rely on that. Callbacks of a killed process are dropped, those of a frozen one are held until
it is thawed, so a crash can happen at any await. The same seed gives the same history, whatever PYTHONHASHSEED is.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import logging
from asyncio import events
from collections.abc import Callable, Coroutine
from itertools import count
from random import Random
from typing import Any, TypeVar

from streams.agents.loop import LeanHandle
from streams.broker.simulated.process import Change, Process, current_process
from streams.testing.virtual_tasks import NumberedTask, bury

T = TypeVar("T")
log = logging.getLogger(__name__)


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set, but what was to be run has not ended."""


class LimitExceeded(RuntimeError):
    """More virtual time or more steps than allowed: something goes round in circles."""


class _Timer(LeanHandle, events.TimerHandle):
    """A lean handle of a callback that is due at a time."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        """Never run it; one that has run, which every `asyncio.sleep` cancels, costs the loop nothing more."""
        if not self._cancelled:
            self._cancelled = True
            self._callback = self._args = None  # type: ignore[assignment]
            if self._scheduled:
                self._loop._timer_handle_cancelled(self)  # type: ignore[attr-defined]


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. It has no network, no threads and no signals.

    Args:
        seed: Decides every draw; `random` is there for those who need draws of their own.
        max_time_s: Virtual seconds after which `LimitExceeded` is raised.
        max_steps: Callbacks after which `LimitExceeded` is raised.
        step_s: What every callback costs in virtual time, so that a loop of `sleep(0)` gets somewhere.
        shuffle: Draw among the callbacks of one process too. Finds more, but also what cannot happen: asyncio
            promises first come, first served.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        max_time_s: float = 1e6,
        max_steps: int = 10_000_000,
        step_s: float = 1e-6,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.random = Random(seed)
        self.steps = 0
        self.fingerprint = 0
        """Hash of the history so far: equal for equal histories."""
        self._now = 0.0
        self._max_time_s = max_time_s
        self._max_steps = max_steps
        self._step_s = step_s
        self._shuffle = shuffle
        self._root = Process("root")
        # Processes that have callbacks ready. A frozen one is taken out when its turn comes.
        self._active: list[Process] = []
        # With when they are due and a number, so that the heap compares tuples and of two at once the first goes first.
        self._timers: list[tuple[float, int, _Timer]] = []
        self._timer_numbers = count()
        self._cancelled_timers = 0
        self._numbers = count(1)
        self._processes: dict[Process, None] = {}
        self._burying = False

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Run *callback* in its turn."""
        handle = LeanHandle(callback, args, self, context)
        self._enqueue(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Run *callback* in its turn; there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Run *callback* in *delay* virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Run *callback* at the virtual time *when*."""
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """Start a task, in the process of *context* or else the current one."""
        if self._burying:
            coro.close()
            raise RuntimeError("the process that starts this task is dead")
        process = (current_process.get() if context is None else context.get(current_process)) or self._root
        task = NumberedTask(next(self._numbers), coro, loop=self, name=name, context=context)
        if not process.dead:
            self._processes[process] = None
            process.adopt(task)
        return task

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        """Refuse: threads take real time and are not reproducible."""
        raise NotImplementedError("a virtual-time loop has no threads; replace what needs one by a fake")

    def finish(self, timeout_s: float = 60.0) -> None:
        """Cancel what still runs and close the loop; what was killed is buried without running any more of it."""
        for process in self._processes:
            if process.frozen:
                process.kill()
        dead = {task for process in self._processes for task in process.corpses}
        living = sorted((task for task in asyncio.all_tasks(self) if task not in dead), key=hash)
        try:
            for task in living:
                task.cancel()
            if living:
                self._max_steps, self._max_time_s = self.steps + 1_000_000, self._now + timeout_s * 2
                self.run_until_complete(asyncio.wait(living, timeout=timeout_s))
            self._bury(sorted(dead, key=hash))
            self.run_until_complete(self.shutdown_asyncgens())
        except (Deadlock, LimitExceeded):
            names = [task.get_name() for task in living if not task.done()]
            log.warning("tasks that do not end when they are cancelled: %s", names)
        finally:
            self._bury(sorted(asyncio.all_tasks(self), key=hash))
            self.close()

    def _enqueue(self, handle: LeanHandle | _Timer) -> None:
        process = handle._context.get(current_process, None) or self._root
        if process.dead or self._burying:
            return
        handles = process.handles
        if not handles:
            self._active.append(process)
        handles.append(handle)

    def _run_once(self) -> None:
        active, timers, draw = self._active, self._timers, self.random.random
        while not self._stopping:  # type: ignore[attr-defined]
            if timers and timers[0][0] <= self._now:
                self._ring()
            if not active:
                self._jump()
                continue
            among = len(active)
            index = int(draw() * among) if among > 1 else 0
            process = active[index]
            handles = process.handles
            if not process.running or not handles:
                self._park(index)
                continue
            if self._shuffle and len(handles) > 1:
                handles.rotate(-int(draw() * len(handles)))
            handle = handles.popleft()
            if not handles:
                active[index] = active[-1]
                active.pop()
            if handle._cancelled:
                continue
            self.steps += 1
            if self.steps > self._max_steps:
                raise LimitExceeded(f"more than {self._max_steps} steps (seed {self.seed}, at {self._now:.3f} s)")
            self._now = now = self._now + self._step_s
            self.fingerprint = (self.fingerprint * 1_000_003 + among * 31 + index + hash(now)) & 0xFFFF_FFFF_FFFF
            try:
                handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                what = f"Exception in callback {handle._callback!r}"  # type: ignore[attr-defined]
                self.call_exception_handler({"message": what, "exception": error, "handle": handle})
            if process.fuse > 0:
                process.fuse -= 1
                if process.fuse == 0:
                    process.kill()

    def _park(self, index: int) -> None:
        """Take a process out that cannot go on; if it is frozen, it comes back with its callbacks when thawed."""
        active = self._active
        process = active[index]
        active[index] = active[-1]
        active.pop()
        if process.frozen and process.handles:

            def back(change: Change) -> None:
                if change != "frozen":
                    process.unwatch(back)
                if change == "thawed" and process.handles:
                    active.append(process)

            process.watch(back)

    def _jump(self) -> None:
        """Let time pass until the next timer."""
        timers = self._timers
        while timers:
            timer = timers[0][2]
            process = timer._context.get(current_process)
            if not timer._cancelled and (process is None or not process.dead):
                break
            self._forget(heapq.heappop(timers)[2])
        if not timers:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
            raise Deadlock(
                f"nothing is ready and no timer is set at {self._now:.3f} s (seed {self.seed}, {self.steps} steps); "
                f"{len(waiting)} tasks wait: {', '.join(waiting[:20])}"
            )
        self._now = max(self._now, timers[0][0])
        if self._now > self._max_time_s:
            raise LimitExceeded(f"more than {self._max_time_s:g} virtual seconds (seed {self.seed})")

    def _ring(self) -> None:
        """Make the timers that are due ready."""
        timers, now = self._timers, self._now
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            self._forget(timer)
            if not timer._cancelled:
                self._enqueue(timer)

    def _forget(self, timer: _Timer) -> None:
        timer._scheduled = False
        if timer._cancelled:
            self._cancelled_timers -= 1

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled_timers += 1
        if self._cancelled_timers > 100 and self._cancelled_timers * 2 > len(self._timers):
            # Most timers are timeouts that never ring. In place, because _run_once holds on to the list.
            for _, _, timer in self._timers:
                if timer._cancelled:
                    timer._scheduled = False
            self._timers[:] = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def _bury(self, tasks: list[asyncio.Task[Any]]) -> None:
        """End tasks of dead processes without anything that they do having an effect."""
        self._burying = True
        events._set_running_loop(self)
        try:
            bury(tasks)
            for process in self._processes:
                process.corpses.clear()
        finally:
            self._burying = False
            events._set_running_loop(None)

    def _asyncgen_finalizer_hook(self, generator: Any) -> None:
        if not self._burying:
            super()._asyncgen_finalizer_hook(generator)  # type: ignore[misc]

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, _: object) -> None:
        pass


def run(main: Coroutine[Any, Any, T], *, seed: int = 0, **options: Any) -> T:
    """Run *main* on a `VirtualLoop` of its own and return what it returns.

    Args:
        options: Further arguments of `VirtualLoop`.

    Raises:
        Deadlock: *main* waits for something that nobody will do.
        LimitExceeded: More virtual time or steps than allowed.
    """
    loop = VirtualLoop(seed, **options)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.finish()
