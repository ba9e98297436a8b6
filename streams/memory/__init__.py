"""Memory: agents' state and the history of invocations in Postgres, written back from the log in bulk.

The log is the truth and the write-ahead log; what is here follows it. Hands to the command line the `MemoryRole`
(`role`), to cold reads and status queries the `PostgresStore` (`store`). The only room that imports psycopg; this
module and `settings` do not, so that settings stay cheap to read.
"""

from streams.memory.settings import MemorySettings

__all__ = ["MemorySettings"]
