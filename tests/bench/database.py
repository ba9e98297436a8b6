"""The Postgres that a benchmark runs on: the one in the environment, or an embedded one of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.memory.embedded import EmbeddedPostgres
from streams.memory.settings import DSN_SETTING


@contextmanager
def postgres() -> Iterator[str]:
    """Give the connection string of a Postgres; what was started for it is thrown away at the end."""
    if given := os.environ.get(DSN_SETTING):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        yield server.dsn
