"""Running worlds: one seed, or many with their verdicts."""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from dataclasses import dataclass
from typing import Any

import structlog

from streams.testing.virtual_time import Deadlock, LimitExceeded, VirtualLoop
from tests.simulation.oracle import Oracle
from tests.simulation.plan import draw_plan
from tests.simulation.world import Stuck, World, only_seeded

MAX_TIME_S = 2_000.0
MAX_STEPS = 3_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one world ended.

    Attributes:
        fingerprint: The same for the same history.
        steps: Callbacks that were run.
    """

    seed: int
    problems: tuple[str, ...]
    fingerprint: int
    steps: int
    virtual_s: float


def run_seed(seed: int, *, trace: bool = False) -> Verdict:
    """Run the world of *seed* and let the oracle look at it."""
    plan = draw_plan(seed)
    loop = VirtualLoop(seed, max_time_s=MAX_TIME_S, max_steps=MAX_STEPS)
    loop.set_exception_handler(lambda *_: None)
    world = World(seed, plan, trace=trace)
    problems: list[str] = []
    fingerprint = 0
    with _Heard(world, trace), only_seeded(seed, world.outside):
        if trace:
            print(plan)
        try:
            loop.run_until_complete(world.run())
            problems += loop.run_until_complete(_judge(world))
        except (Stuck, Deadlock, LimitExceeded) as error:
            problems += [*world.problems, f"{type(error).__name__}: {error}"]
        finally:
            fingerprint = (loop.fingerprint << 32) | world.fingerprint()
            loop.run_until_complete(_end(world))
            loop.finish()
    return Verdict(seed, tuple(problems), fingerprint, loop.steps, loop.time())


async def _judge(world: World) -> list[str]:
    return Oracle(world).problems()


async def _end(world: World) -> None:
    world.end()


class _Heard:
    """Takes note of errors that roles survive but must never meet; prints the log when traced."""

    def __init__(self, world: World, trace: bool) -> None:
        self._world = world
        self._trace = trace
        self._handler = _Handler(world, trace)

    def __enter__(self) -> None:
        structlog.configure(processors=[self._take], cache_logger_on_first_use=False)
        root = logging.getLogger()
        root.addHandler(self._handler)
        self._level = root.level
        root.setLevel(logging.WARNING)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        logging.getLogger().setLevel(self._level)
        structlog.reset_defaults()

    def _take(self, logger: Any, method: str, event: Any) -> Any:
        if self._trace:
            print(f"{asyncio.get_event_loop().time():10.4f}  {event}")
        if event.get("event") == "shard failed" and not self._world.over:
            self._world.problems.append(_last_error("a shard failed"))
        raise structlog.DropEvent


class _Handler(logging.Handler):
    def __init__(self, world: World, trace: bool) -> None:
        super().__init__()
        self._world = world
        self._trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        if self._trace:
            print(f"{asyncio.get_event_loop().time():10.4f}  {record.getMessage()}")
        if record.exc_info and not self._world.over:
            self._world.problems.append(_last_error(record.getMessage()))


def _last_error(what: str) -> str:
    return f"{what}: {traceback.format_exc(limit=-6)}"


def quick_collection() -> None:
    """Let the collector of cycles run less often: worlds are short, and are dropped as a whole."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
