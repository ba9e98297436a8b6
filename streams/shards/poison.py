"""Finding the invocation that kills its process, without punishing its neighbours.

Each owner counts itself in its first transaction and is forgiven once it makes progress. From the second owner without
progress on, records are taken one at a time, and the attempt is committed before the record is processed: the attempt
that is found unfinished by the next owner names its invocation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.records.journal import Cursor

MAX_ATTEMPTS = 3
PROGRESS_TRANSACTIONS = 20
CAREFUL_FROM = 2


@dataclass(slots=True)
class Poison:
    """State of the search, kept in the cursor.

    Attributes:
        restarts: Owners since the last one that made progress, this one included.
        suspects: Invocation to attempts that were begun and not finished.
    """

    restarts: int = 0
    suspects: dict[str, int] = field(default_factory=dict)
    _survived: int = 0

    @classmethod
    def after_restore(cls, cursor: Cursor) -> Poison:
        """Return the state of a new owner."""
        return cls(cursor.restarts + 1, dict(cursor.suspects))

    @property
    def careful(self) -> bool:
        """Records must be taken one at a time."""
        return self.restarts > CAREFUL_FROM

    def attempts(self, invocation: str) -> int:
        """Return how often an invocation's record was begun and not finished."""
        return self.suspects.get(invocation, 0)

    def guilty(self, invocation: str) -> bool:
        """Tell whether it has had all its attempts."""
        return self.attempts(invocation) >= MAX_ATTEMPTS

    def attempt(self, invocation: str) -> None:
        """Note that a record of it is about to be processed."""
        self.suspects[invocation] = self.attempts(invocation) + 1

    def survived(self, invocation: str) -> None:
        """Note that the process lived through it."""
        self.suspects.pop(invocation, None)
        self._survived += 1
        if self._survived >= PROGRESS_TRANSACTIONS:
            self.restarts = 0

    def progress(self, transactions: int) -> None:
        """Forgive the restarts after enough transactions in the ordinary way."""
        if not self.careful and transactions >= PROGRESS_TRANSACTIONS:
            self.restarts = 0
