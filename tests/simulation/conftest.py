"""Simulated processes die by the hundred; what they would log about it is left out."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()
