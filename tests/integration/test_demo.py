"""The payments demo as a user runs it, with a `kill -9` of every role in the middle."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.long  # the default tests kill every role in the short chaos run
@pytest.mark.timeout(240)
def test_the_demo_survives_the_death_of_every_role(kafka: str, postgres: str):
    command = [sys.executable, "-m", "streams", "demo", "-n", "300", "-c", "30", "--kill", "--json"]
    environment = {**os.environ, "STREAMS_KAFKA__BOOTSTRAP_SERVERS": kafka, "STREAMS_MEMORY__DSN": postgres}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=220, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["invocations"] == figures["succeeded"] == 300
    assert figures["lost"] == figures["duplicates"] == figures["wrong"] == figures["failed"] == 0
    assert figures["tokens"] > 0
    assert done.stderr.count("kill -9") == 5
