"""What one reporter saw of one dependency since its last digest."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.breakers.window import FAILED
from streams.records.control import OutcomeDigest

_ERROR_CLASSES = 16


@dataclass(slots=True)
class Tally:
    """Sums that become an `OutcomeDigest`. Mutable, because a guarded call has one microsecond."""

    dependency: str
    reporter: str
    from_ms: int = 0
    calls: int = 0
    failures: int = 0
    slow: int = 0
    short_circuited: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    retry_after_ms: int = 0

    def add_bad(self, code: int, error: str, retry_after_ms: int = 0) -> None:
        """Count what went wrong with a call that is in `calls` already."""
        self.retry_after_ms = max(self.retry_after_ms, retry_after_ms)
        if code & FAILED:
            self.failures += 1
            # Classes beyond the bound are counted together: their names come from the code of users.
            name = error if error in self.errors or len(self.errors) < _ERROR_CLASSES else "other"
            self.errors[name or "unknown"] = self.errors.get(name or "unknown", 0) + 1
        self.slow += code >> 1

    @property
    def is_empty(self) -> bool:
        """Nothing to report."""
        return not (self.calls or self.short_circuited)

    def digest(
        self, sequence: int, to_ms: int, *, generation: str, phase: str, probe: str = "", probe_until_ms: int = 0
    ) -> OutcomeDigest:
        """Return the sums as a record."""
        return OutcomeDigest(
            self.reporter,
            sequence,
            self.dependency,
            self.from_ms or to_ms,
            to_ms,
            self.calls,
            self.failures,
            self.slow,
            self.short_circuited,
            generation,
            probe,
            phase,
            dict(self.errors),
            probe_until_ms,
            self.retry_after_ms,
        )


class Sequence:
    """Numbers of one reporter's digests.

    They begin at the clock, so that a restarted reporter of the same name is not taken for a repetition of itself.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self, now_ms: int) -> int:
        """Return a number above all that were returned before."""
        self._last = self._last + 1 if self._last else max(now_ms, 1)
        return self._last
