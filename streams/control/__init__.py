"""The control plane: merges what the fleet saw, decides breakers and backpressure, and writes both for everyone.

Soft state only: all of it can be rebuilt from topics, and everyone works on without it. Hands to the command line the
`ControlRole` (`role`). The only room that imports faust, in `faust_app` alone and only once the role runs.
"""

from streams.control.settings import ControlSettings

__all__ = ["ControlSettings"]
