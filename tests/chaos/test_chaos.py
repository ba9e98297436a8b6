"""A short run of the chaos, as part of the default tests; `make chaos` is the long one."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

ZEROS = (
    "lost",
    "duplicates",
    "effects_twice",
    "effects_missing",
    "unclaimed",
    "state_mismatches",
    "late_writes",
    "failed",
    "dead_letters",
    "journals_left",
    "stuck",
)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_or_done_twice_while_every_role_is_killed() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--kills", "5", "--seed", "1", "--json"]
    done = subprocess.run(
        [*command, "--session-timeout-s", "3", "--workers", "12"],
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = orjson.loads(done.stdout)
    assert {name: figures[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    assert (figures["kills"], figures["zombies"], figures["rolls"]) == (5, 1, 1)
    assert figures["results"] > 50
