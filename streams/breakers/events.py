"""Every transition of a breaker is an event: what changed, why, and the figures that it was decided by."""

from __future__ import annotations

import logging

from streams.breakers.machine import Transition

log = logging.getLogger(__name__)

FLEET = "fleet"
"""The control plane decided."""
LOCAL = "local"
"""This process decided by what it saw itself."""


def tell(transition: Transition, decided_by: str) -> str:
    """Return an event as a line for people."""
    before, after = transition.before, transition.after
    figures = [f"generation {after.epoch}.{after.number}"]
    if after.calls:
        figures.append(f"failure_rate {after.failure_rate:.2f}, slow_rate {after.slow_rate:.2f} of {after.calls} calls")
    if after.phase == "open":
        figures.append(f"opening {after.openings} for {(after.until_ms - after.since_ms) / 1000:.1f} s")
    if after.probe_holder:
        figures.append(f"probe leased to {after.probe_holder}")
    if after.changed_by != "machine":
        figures.append(f"by {after.changed_by}")
    return (
        f"breaker {after.dependency} is {after.phase} (was {before.phase}, {decided_by}): {after.reason}; "
        f"{', '.join(figures)}"
    )


def log_transition(transition: Transition, decided_by: str, *, here: bool = False) -> None:
    """Write an event to the log.

    Args:
        here: This process decided. Such an event is a warning; that others follow it is only told (INFO), as is a lease
            that moves on (DEBUG).
    """
    level = logging.WARNING if here or decided_by == LOCAL else logging.INFO
    log.log(level if transition.changes_phase else logging.DEBUG, "%s", tell(transition, decided_by))
