"""Tasks of a virtual-time loop: how they hash, and how those of dead processes are put away."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NumberedTask(asyncio.Task[T]):
    """A task that hashes by the order of creation.

    `TaskGroup`, `asyncio.wait` and `as_completed` iterate sets of tasks; by address, that order changes between runs.
    """

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, T], **options: Any) -> None:
        self.number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number


def bury(tasks: list[asyncio.Task[Any]]) -> None:
    """Empty *tasks*, closing their coroutines. Their finally blocks run; what goes wrong in them is nobody's concern.

    The caller sees to it that nothing that they start is started.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while tasks:
                task = tasks.pop()
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
    finally:
        sys.unraisablehook = hook


def _close(coroutine: Any) -> None:
    # One that awaits in a finally block refuses to be closed once for each such await.
    for _ in range(100):
        try:
            if coroutine is not None:
                coroutine.close()
            return
        except BaseException:
            continue
