"""What a simulated handler does: small programs that travel as its input, drawn from the seed.

One application serves every seed, so that declaring it is paid for once; what varies is in the input. A program is a
list of operations, each a list of a name and its arguments. Sites name the places in it, so that an effect that was
asked for once can be told from one that happened twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

LEVELS = ("alpha", "beta", "gamma")
"""Agents by level: a child is always of a later level, so that two invocations never wait for each other."""

Program = list[Any]


@dataclass(slots=True)
class Author:
    """Draws programs.

    Attributes:
        keys: Agent keys that children may have.
        signals: Names of signals that the program waits for without a timeout; somebody must send them.
    """

    random: Random
    keys: tuple[str, ...]
    signals: list[str] = field(default_factory=list)
    _sites: int = 0

    def program(self, level: int, chain: tuple[str, ...], *, top: bool, depth: int = 0) -> Program:
        """Return a program for an agent of *level*; *chain* are the instances that wait for it, itself included."""
        most = (4, 3, 2, 1)[min(depth, 3)]
        return [self._operation(level, chain, top, depth) for _ in range(self.random.randint(1, most))]

    def _operation(self, level: int, chain: tuple[str, ...], top: bool, depth: int) -> list[Any]:
        draw = self.random
        kinds = ["peek", "store", "pay", "pay", "chat", "sleep", "add", "note", "bag", "rng", "patched"]
        if draw.random() < 0.3:
            kinds += ["slow", "hang", "raise", "deny", "long", "deadlock"]
        if depth < 3:
            kinds += ["gather", "group", "timeout", "repeat", "race", "cleanup"]
        if level + 1 < len(LEVELS):
            kinds += ["child", "child", "start"]
        kinds += ["signal"] if top else []
        kind = draw.choice(kinds)
        match kind:
            case "sleep" | "long":
                return ["sleep", round(draw.random() * (3.0 if kind == "long" else 0.3), 3)]
            case "add":
                return ["add", draw.randint(1, 9)]
            case "gather" | "group" | "race":
                branches = [self.program(level, chain, top=False, depth=depth + 1) for _ in range(draw.randint(2, 3))]
                return [kind, branches]
            case "timeout":
                limit = round(draw.random() * draw.choice((0.02, 0.2, 2.0)), 3)
                return ["timeout", limit, self.program(level, chain, top=False, depth=depth + 1)]
            case "repeat":
                return ["repeat", draw.choice((2, 3, 8)), self.program(level, chain, top=False, depth=depth + 2)]
            case "cleanup":
                return ["cleanup", self.program(level, chain, top=False, depth=depth + 1), self.site()]
            case "child" | "start":
                return self._child(kind, level, chain)
            case "signal":
                return self._signal()
            case "deadlock":
                return ["deadlock", draw.choice(chain)]
        return [kind, self.site()]

    def _child(self, kind: str, level: int, chain: tuple[str, ...]) -> list[Any]:
        below = self.random.randint(level + 1, len(LEVELS) - 1)
        agent, key = LEVELS[below], self.random.choice(self.keys)
        waiting = chain if kind == "child" else ()
        inner = self.program(below, (*waiting, f"{agent}/{key}"), top=False, depth=2)
        return [kind, agent, key, inner]

    def _signal(self) -> list[Any]:
        name = f"go-{self.site()}"
        if self.random.random() < 0.3:
            return ["signal", name, 1, round(self.random.random(), 2)]
        self.signals.append(name)
        count = self.random.choice((1, 1, 2, 3))
        self.signals += [name] * (count - 1)
        return ["signal", name, count, None]

    def site(self) -> str:
        """Return a new name for a place."""
        self._sites += 1
        return f"s{self._sites}"
