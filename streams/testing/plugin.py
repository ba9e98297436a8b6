"""The pytest plugin that comes with the package: agents without Kafka, a real Kafka, a real Postgres.

It is loaded in every pytest run of an environment that has the package, so it imports nothing of the package until a
test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from streams.testing.simulation import Simulation


@pytest.fixture(scope="session")
def streams_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a Kafka: from STREAMS_KAFKA__BOOTSTRAP_SERVERS, else a container, else embedded."""
    from streams.testing.servers import kafka_for_tests

    with kafka_for_tests(tmp_path_factory.mktemp("kafka")) as bootstrap_servers:
        yield bootstrap_servers


@pytest.fixture(scope="session")
def streams_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DSN of a Postgres: from STREAMS_MEMORY__DSN, else a container, else embedded."""
    from streams.testing.servers import postgres_for_tests

    with postgres_for_tests(tmp_path_factory.mktemp("postgres")) as dsn:
        yield dsn


@pytest.fixture
def simulation() -> Iterator[Callable[..., Simulation]]:
    """Makes a `streams.testing.Simulation` of an app: `simulation(app, tools={...}, models={...})`."""
    from streams.testing.simulation import Simulation

    made: list[Simulation] = []

    def make(*args: Any, **options: Any) -> Simulation:
        made.append(Simulation(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
