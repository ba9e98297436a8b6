"""Breakers: what stops calls to a dependency that fails, for one process and for the fleet.

Pure, with time and luck handed in. Hands to tool workers, dispatcher and sink a `Guard` for each dependency, to shards
the `BreakerView`, to the control plane the `BreakerMachine`. Knows nothing of Kafka or Faust. Dependencies are named
`tool:<name>`, `llm:<pool>` and `postgres`.
"""

from streams.breakers.guard import Admitted, Guard
from streams.breakers.machine import BreakerMachine, Transition, closed
from streams.breakers.policy import BreakerPolicy
from streams.breakers.refusal import Refusal
from streams.breakers.settings import BreakerSettings
from streams.breakers.view import BreakerView

__all__ = [
    "Admitted",
    "BreakerMachine",
    "BreakerPolicy",
    "BreakerSettings",
    "BreakerView",
    "Guard",
    "Refusal",
    "Transition",
    "closed",
]
