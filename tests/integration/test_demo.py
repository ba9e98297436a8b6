"""The payments demo as a user runs it, and with a `kill -9` of every role in the middle."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def demo(kafka: str, postgres: str, invocations: int, *more: str) -> tuple[dict[str, Any], str]:
    """Return the demo's figures and what it said meanwhile."""
    command = [sys.executable, "-m", "streams", "demo", "-n", str(invocations), "-c", "30", "--json", *more]
    environment = {**os.environ, "STREAMS_KAFKA__BOOTSTRAP_SERVERS": kafka, "STREAMS_MEMORY__DSN": postgres}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=220, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def check(figures: dict[str, Any], invocations: int) -> None:
    assert figures["invocations"] == figures["succeeded"] == invocations
    assert figures["lost"] == figures["duplicates"] == figures["wrong"] == figures["failed"] == 0
    assert figures["tokens"] > 0


def test_the_demo_ends_well(kafka: str, postgres: str) -> None:
    figures, _ = demo(kafka, postgres, 60)
    check(figures, 60)


@pytest.mark.long  # the default tests kill every role in the short chaos run
def test_the_demo_survives_the_death_of_every_role(kafka: str, postgres: str) -> None:
    figures, said = demo(kafka, postgres, 300, "--kill")
    check(figures, 300)
    assert said.count("kill -9") == 5
