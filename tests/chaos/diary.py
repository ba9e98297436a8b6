"""What a client has done, in a file that outlives it: one line for each thing, appended in one write."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Literal

What = Literal["started", "accepted", "answered", "unanswered"]


class Diary:
    """Append-only; a client that starts again reads what the one before it did."""

    def __init__(self, path: Path) -> None:
        self._numbers: dict[str, set[int]] = defaultdict(set)
        if path.exists():
            for line in path.read_text().splitlines():
                what, number = line.split(" ")
                self._numbers[what].add(int(number))
        self._file = os.open(path, os.O_APPEND | os.O_WRONLY | os.O_CREAT, 0o644)

    def note(self, what: What, number: int) -> None:
        """Write that *what* happened to an order; it is kept even when the process is killed right after."""
        self._numbers[what].add(number)
        os.write(self._file, f"{what} {number}\n".encode())

    def of(self, what: What) -> frozenset[int]:
        """Return the orders to which *what* happened."""
        return frozenset(self._numbers[what])

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
