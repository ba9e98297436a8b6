"""The Kafka that a benchmark runs on: the one in the environment, or an embedded one of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.broker.embedded import EmbeddedKafka
from streams.broker.kafka.settings import ADDRESS_SETTING


@contextmanager
def kafka() -> Iterator[str]:
    """Give the address of a Kafka; what was started for it is thrown away at the end."""
    if given := os.environ.get(ADDRESS_SETTING):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as folder:
        server = EmbeddedKafka(Path(folder))
        server.start()
        try:
            yield server.bootstrap
        finally:
            server.stop(at_once=True)
