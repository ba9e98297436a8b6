"""Which fault comes when: a function of the seed and the number of kills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

What = Literal["kill", "freeze", "broker", "roll"]

VICTIMS = ("shards", "tools", "llm", "client")
FROZEN = ("shards", "tools", "shards", "llm", "tools")
FREEZE_EVERY = 5
BROKER_EVERY = 10
RESTART_S = 0.3


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them.

    Attributes:
        role: Of the process that it happens to; empty for `broker` and `roll`.
        index: Which of the processes of that role.
        down_s: How long a process that was killed stays away: a moment, or until another has taken over.
        wait: Let everything recover before the next one.
    """

    what: What
    role: str = ""
    index: int = 0
    down_s: float = RESTART_S
    wait: bool = True


def faults(kills: int, seed: int, *, session_timeout_s: float) -> Iterator[Fault]:
    """Yield faults until *kills* processes were killed: every role in turn, with zombies, broker restarts and a rolling
    deploy in between.
    """
    random = Random(f"faults/{seed}")
    freezes = 0
    for number in range(1, kills + 1):
        role = VICTIMS[(number - 1) % len(VICTIMS)]
        takes_over = role in ("shards", "tools") and random.random() < 0.25
        yield Fault(
            "kill",
            role,
            random.randrange(2),
            down_s=session_timeout_s + 3.0 if takes_over else RESTART_S,
            wait=number == kills or random.random() < 0.8,
        )
        if number % FREEZE_EVERY == 0:
            yield Fault("freeze", FROZEN[freezes % len(FROZEN)], random.randrange(2))
            freezes += 1
        if number == max(1, kills // 2):
            yield Fault("roll")
        if number % BROKER_EVERY == 0:
            yield Fault("broker")
