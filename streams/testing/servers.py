"""A Kafka and a Postgres for a test session: addresses from the environment, else containers, else embedded servers.

Decides only where a server comes from; the data of what is started here is thrown away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.broker.embedded import EmbeddedKafka
from streams.errors import PrerequisiteMissing, SettingsError
from streams.memory.embedded import EmbeddedPostgres
from streams.testing import containers

BOOTSTRAP_VARIABLE = "STREAMS_KAFKA__BOOTSTRAP_SERVERS"
DSN_VARIABLE = "STREAMS_MEMORY__DSN"
CONTAINERS_VARIABLE = "STREAMS_TEST_CONTAINERS"


@contextmanager
def kafka_for_tests(folder: Path) -> Iterator[str]:
    """Yield bootstrap servers. *folder* takes the data of an embedded broker.

    Raises:
        PrerequisiteMissing: There is none and none can be started; names three ways out.
        BrokerUnavailable: One was started and does not answer.
    """
    if given := os.environ.get(BOOTSTRAP_VARIABLE):
        yield given
        return
    if container := _container(containers.start_kafka):
        try:
            yield container.address
        finally:
            container.stop()
        return
    server = EmbeddedKafka(folder)
    server.start()
    try:
        yield server.bootstrap
    finally:
        server.stop(at_once=True)


@contextmanager
def postgres_for_tests(folder: Path) -> Iterator[str]:
    """Yield a DSN. *folder* takes the data of an embedded Postgres.

    Raises:
        PrerequisiteMissing: There is none and none can be started.
        StoreUnavailable: One was started and does not answer.
    """
    if given := os.environ.get(DSN_VARIABLE):
        yield given
        return
    if container := _container(containers.start_postgres):
        try:
            yield container.address
        finally:
            container.stop()
        return
    server = EmbeddedPostgres(folder)
    server.start()
    try:
        yield server.dsn
    finally:
        server.stop(at_once=True)


def _container(start: Callable[[], containers.Container | None]) -> containers.Container | None:
    """Containers are tried unless `STREAMS_TEST_CONTAINERS=never`; `always` refuses to go on without them."""
    policy = os.environ.get(CONTAINERS_VARIABLE, "auto")
    if policy not in ("auto", "always", "never"):
        raise SettingsError(f"{CONTAINERS_VARIABLE} is {policy!r}; it takes auto, always or never")
    container = start() if policy != "never" else None
    if container is None and policy == "always":
        raise PrerequisiteMissing(
            f"{CONTAINERS_VARIABLE}=always, but no Docker engine answers or it has no {containers.KAFKA_IMAGE} or "
            f"{containers.POSTGRES_IMAGE} and cannot pull it; start an engine, or say auto"
        )
    return container
