"""The port to the log in memory: one `SimulatedLog` is the cluster, a `SimulatedBroker` is one process's way to it.

It behaves like Kafka where the product can tell the difference: transactions whose markers take an offset, last stable
offsets, fencing, transaction timeouts, groups with generations and session timeouts, retention, compaction. Time is the
event loop's and randomness is handed in, so that under a virtual-time loop one seed gives one history. Processes can be
killed and frozen, the log can be away for a while, and every call takes a random time.
"""

from streams.broker.simulated.broker import SimulatedBroker
from streams.broker.simulated.log import SimulatedLog
from streams.broker.simulated.process import Process, current_process

__all__ = ["Process", "SimulatedBroker", "SimulatedLog", "current_process"]
