"""Whether a process has what it needs to work, and if not, what is missing: the answer of `/readyz`. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.broker.owned_queue import OwnedQueue
    from streams.control.role import ControlRole
    from streams.gateway.role import GatewayRole
    from streams.shards.role import ShardRole


def missing(roles: Mapping[str, Any]) -> dict[str, str]:
    """Return what each role that is not ready waits for; empty when all are.

    A role that owns nothing is not ready: it cannot be told from one whose group has not decided yet. A role without
    a start of its own (`memory`) is ready while it runs.

    Args:
        roles: The role objects of this process, by name.
    """
    found = {name: _CHECKS[name](role) for name, role in roles.items() if name in _CHECKS}
    return {name: reason for name, reason in found.items() if reason}


def _shards(role: ShardRole) -> str:
    if not role.processors:
        return "no shard is assigned to this process"
    stuck = [f"shard {number} is stuck: {p.stuck}" for number, p in sorted(role.processors.items()) if p.stuck]
    if stuck:
        return stuck[0]
    restoring = [str(number) for number, p in sorted(role.processors.items()) if not p.ready.is_set()]
    return f"shards being restored: {', '.join(restoring)}" if restoring else ""


def _queue(role: Any) -> str:
    queue: OwnedQueue = role.queue
    return "" if queue.working else "no partition is read by this process"


def _control(role: ControlRole) -> str:
    return "" if role.started else "Faust has not started yet"


def _gateway(role: GatewayRole) -> str:
    return "" if role.address else "not listening yet"


_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "shards": _shards,
    "tools": _queue,
    "llm": _queue,
    "control": _control,
    "gateway": _gateway,
}
