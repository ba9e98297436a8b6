"""What every test may ask for: one Kafka and one Postgres for the whole session, and their markers."""

import pytest


@pytest.fixture(scope="session")
def kafka(streams_kafka: str) -> str:
    """Bootstrap servers."""
    return streams_kafka


@pytest.fixture(scope="session")
def postgres(streams_postgres: str) -> str:
    """DSN."""
    return streams_postgres


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the servers that they ask for, so that `-m "not kafka and not postgres"` runs anywhere."""
    for item in items:
        for name in ("kafka", "postgres"):
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(name)
