"""Whether a recorded history of operations on one object can have happened one after the other.

The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with what Lowe added ("Testing for
linearizability", 2017): a set of operations that has led to a state once is not tried again. An operation takes effect
at one instant between its start and its end; one that ended before another one started comes before it. One whose end
nobody saw may have taken effect at any time after its start, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

NEVER = float("inf")

Apply = Callable[[Any], Iterable[Hashable]]
"""States that an operation may lead to from a state, with the outcome that it had; none where it cannot have had it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as its caller saw it.

    Attributes:
        name: For people.
        start: When it was called.
        end: When its outcome was known; infinite for one whose outcome never was.
    """

    name: str
    start: float
    end: float
    apply: Apply


class TooLong(AssertionError):
    """The search was given up; nothing is known about the history."""


def linearize(history: Sequence[Operation], initial: Hashable, *, most: int = 2_000_000) -> list[str] | None:
    """Return an order in which the operations can have taken effect, None where there is none.

    Raises:
        TooLong: It was not found out within so many tries.
    """
    operations = sorted(history, key=lambda operation: (operation.end, operation.start))
    wanted = sum(1 << number for number, operation in enumerate(operations) if operation.end < NEVER)
    seen: set[tuple[int, Hashable]] = set()
    path: list[tuple[int, Hashable, list[tuple[int, Hashable]]]] = []
    done, state = 0, initial
    choices = _choices(operations, done, state)
    for _ in range(most):
        if done & wanted == wanted:
            return [operations[number].name for number, _, _ in path]
        if choices:
            number, after = choices.pop()
            if (done | 1 << number, after) not in seen:
                seen.add((done | 1 << number, after))
                path.append((number, state, choices))
                done, state = done | 1 << number, after
                choices = _choices(operations, done, state)
        elif path:
            number, state, choices = path.pop()
            done ^= 1 << number
        else:
            return None
    raise TooLong(f"{len(history)} operations were not ordered in {most:,} tries")


def _choices(operations: Sequence[Operation], done: int, state: Hashable) -> list[tuple[int, Hashable]]:
    """Return what can have come next, with the state after it; the likeliest last."""
    first_end = next((o.end for number, o in enumerate(operations) if not done >> number & 1), NEVER)
    return [
        (number, after)
        for number, operation in reversed(list(enumerate(operations)))
        if not done >> number & 1 and operation.start <= first_end
        for after in operation.apply(state)
    ]


# -- a record that is shared between agents ----------------------------------------------------------------------------

Record = tuple[Any, int]
"""Value, and how often it was written: the sum of its version vector."""

NEW: Record = (None, 0)


def read(name: str, start: float, end: float, value: Any, version: int) -> Operation:
    """Return a read that gave *value* in *version*."""
    return Operation(name, start, end, lambda state: [state] if state == (value, version) else [])


def write(name: str, start: float, end: float, value: Any, expected: int | None, version: int) -> Operation:
    """Return a write (None deletes) that was applied as *version*; expected None means any."""

    def apply(state: Record) -> list[Record]:
        return [(value, version)] if expected in (None, state[1]) and version == state[1] + 1 else []

    return Operation(name, start, end, apply)


def conflict(name: str, start: float, end: float, expected: int, current: int) -> Operation:
    """Return a write that was refused because *current* was the version."""
    return Operation(name, start, end, lambda state: [state] if state[1] == current != expected else [])


def update(name: str, start: float, end: float, function: Callable[[Any], Any], value: Any, version: int) -> Operation:
    """Return an update that made *value* of what was there."""

    def apply(state: Record) -> list[Record]:
        return [(value, version)] if (function(state[0]), state[1] + 1) == (value, version) else []

    return Operation(name, start, end, apply)


def perhaps(name: str, start: float, function: Callable[[Any], Any], expected: int | None = None) -> Operation:
    """Return a write or update of which nobody knows whether it was applied."""

    def apply(state: Record) -> list[Record]:
        return [(function(state[0]), state[1] + 1)] if expected in (None, state[1]) else []

    return Operation(name, start, NEVER, apply)
