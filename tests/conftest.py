"""What every test may ask for: one Kafka and one Postgres for the whole session, and their markers."""

import pytest
from hypothesis import HealthCheck, settings

# The first text that hypothesis draws in a fresh clone builds its tables of Unicode, which takes more than a second;
# and on two busy cores no example has a deadline that means something.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


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
