"""The judge of histories is judged: good ones pass, each kind of bad one is found; it agrees with trying all orders."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linearizability import (
    NEVER,
    NEW,
    Operation,
    TooLong,
    conflict,
    linearize,
    perhaps,
    read,
    update,
    write,
)


def bump(value: int | None) -> int:
    return (value or 0) + 1


def ok(*history: Operation) -> bool:
    return linearize(history, NEW) is not None


def test_an_order_is_found_and_said():
    history = (
        write("w1", 0, 10, "a", 0, 1),
        read("r1", 1, 2, None, 0),
        read("r2", 3, 4, "a", 1),
        update("u", 5, 9, lambda _: "b", "b", 2),
        conflict("c", 6, 12, 1, 2),
    )
    assert linearize(history, NEW) == ["r1", "w1", "r2", "u", "c"]


@pytest.mark.parametrize(
    "history",
    [
        # A stale read: the write had ended before it started.
        (write("w", 0, 1, "a", 0, 1), read("r", 2, 3, None, 0)),
        # New, then old again.
        (write("w", 0, 10, "a", 0, 1), read("r1", 1, 2, "a", 1), read("r2", 3, 4, None, 0)),
        # A lost update: both made 1 of nothing.
        (update("u1", 0, 10, bump, 1, 1), update("u2", 0, 10, bump, 1, 1)),
        # The same, and the versions do not tell.
        (update("u1", 0, 10, bump, 1, 1), update("u2", 0, 10, bump, 1, 2)),
        # Two writes that expected the same version.
        (write("w1", 0, 10, "a", 0, 1), write("w2", 0, 10, "b", 0, 2)),
        # A conflict about nothing.
        (write("w", 0, 1, "a", 0, 1), conflict("c", 2, 3, 1, 1)),
        (read("r", 0, 1, None, 0), conflict("c", 2, 3, 0, 1)),
        # A value that nobody has written.
        (write("w", 0, 1, "a", 0, 1), read("r", 0, 3, "b", 1)),
        # An acknowledged write that is gone.
        (write("w", 0, 1, "a", None, 1), write("x", 2, 3, "b", None, 1)),
        # Two orders at once.
        (
            write("w1", 0, 10, "a", None, 1), write("w2", 0, 10, "b", None, 2),
            read("r1", 11, 12, "b", 2), read("r2", 13, 14, "a", 2),
        ),
        # What may have happened has happened too early.
        (perhaps("p", 5, lambda _: "a"), read("r", 0, 4, "a", 1)),
        # And cannot have happened twice.
        (perhaps("p", 0, bump), read("r1", 1, 2, 1, 1), read("r2", 3, 4, 2, 2)),
    ],
)  # fmt: skip
def test_bad_histories_are_found(history):
    assert not ok(*history)


def test_what_nobody_saw_the_end_of_may_have_happened_or_not():
    pending = perhaps("p", 0, bump)
    assert ok(pending, read("r", 1, 2, 1, 1))
    assert ok(pending, read("r", 1, 2, None, 0))
    assert ok(pending, read("r1", 1, 2, None, 0), read("r2", 3, 4, 1, 1))
    assert not ok(perhaps("p", 0, bump, expected=7), read("r", 1, 2, 1, 1))


def test_operations_that_touch_are_concurrent():
    assert ok(write("w", 0, 1, "a", 0, 1), read("r", 1, 2, None, 0))


def test_a_long_search_is_given_up_aloud():
    history = [Operation(f"{n}", 0, 1, lambda state: [state + 1]) for n in range(20)]
    with pytest.raises(TooLong):
        linearize([*history, Operation("never", 0, 1, lambda _: [])], 0, most=1_000)


@given(st.integers(0, 10**9), st.integers(1, 60))
def test_what_an_atomic_record_does_passes(seed, count):
    """Operations take effect one after the other, and are seen to take some time around it."""
    draw = Random(seed)
    value, version, history = None, 0, []
    for number in range(count):
        start, end, known = number - 4 * draw.random(), number + 4 * draw.random(), draw.randint(0, version)
        match draw.choice(("read", "write", "update") * 6 + ("perhaps",)):
            case "read":
                history.append(read(f"{number}", start, end, value, version))
            case "write" if known != version:
                history.append(conflict(f"{number}", start, end, known, version))
            case "write":
                value, version = number, version + 1
                history.append(write(f"{number}", start, end, value, known, version))
            case "update":
                value, version = bump(value), version + 1
                history.append(update(f"{number}", start, end, bump, value, version))
            case _:
                history.append(perhaps(f"{number}", start, bump))
                if draw.random() < 0.5:
                    value, version = bump(value), version + 1
    assert ok(*history)


@given(st.integers(0, 10**9))
def test_it_agrees_with_trying_all_orders(seed):
    draw = Random(seed)
    history = []
    for number in range(draw.randint(1, 5)):
        start = draw.randint(0, 6)
        end, name = start + draw.randint(0, 4), f"{number}"
        history.append(
            draw.choice(
                (
                    read(name, start, end, draw.choice((None, 1, 2)), draw.randint(0, 2)),
                    write(name, start, end, draw.choice((1, 2)), draw.choice((None, 0, 1)), draw.randint(1, 3)),
                    update(name, start, end, bump, draw.choice((1, 2)), draw.randint(1, 3)),
                    conflict(name, start, end, draw.randint(0, 1), draw.randint(0, 2)),
                    perhaps(name, start, bump),
                )
            )
        )
    assert ok(*history) == _any_order(history)


def _any_order(history: list[Operation]) -> bool:
    must = [operation for operation in history if operation.end < NEVER]
    may = [operation for operation in history if operation.end == NEVER]
    chosen = [[one for n, one in enumerate(may) if mask >> n & 1] for mask in range(1 << len(may))]
    return any(_legal(order) for some in chosen for order in permutations([*must, *some]))


def _legal(order: tuple[Operation, ...]) -> bool:
    if any(later.end < earlier.start for n, earlier in enumerate(order) for later in order[n + 1 :]):
        return False
    state: Hashable = NEW
    for operation in order:
        states = list(operation.apply(state))
        if not states:
            return False
        (state,) = states
    return True
