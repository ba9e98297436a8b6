"""What users test with: `Simulation` tries agents without Kafka, real servers come from pytest fixtures (`plugin`), and
`virtual_time` runs what waits without waiting.

Imports nothing until it is asked for, because pytest loads the plugin wherever the package is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.testing.fakes import Call
    from streams.testing.simulation import Simulation, StillWaiting

__all__ = ["Call", "Simulation", "StillWaiting"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from streams.testing import simulation

        return getattr(simulation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
