"""Seeing: logs, metrics and probes of a process, read from the counters that its roles keep anyway.

Nothing here is called on the hot path: a scrape pulls (`collect`) what the registry (`registry`) lists. Hands to the
command line `configure_logs` (`logs`) and the server of `/metrics`, `/livez` and `/readyz` (`server`). This module and
`settings` import nothing heavy, so that settings stay cheap to read.
"""

from streams.observe.settings import ObserveSettings

__all__ = ["ObserveSettings"]
