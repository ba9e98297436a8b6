"""What surrounds the demo: the bank, and the mock model provider unless a real one is configured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streams.demo.app import BANK_VARIABLE
from streams.errors import PrerequisiteMissing

POOLS_VARIABLE = "STREAMS_LLM__POOLS"
KEYS_VARIABLE = "PAYMENTS_MOCK_KEYS"
START_S = 15.0


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """Where it is.

    Attributes:
        provider_url: Base URL of the model provider.
        bank_url: Of the bank.
        mock: The provider is the strict mock.
    """

    provider_url: str
    bank_url: str
    mock: bool


@contextmanager
def demo_world(*, seed: int = 0, change_every_s: float = 5.0, concurrency: int | None = None) -> Iterator[DemoWorld]:
    """Start bank and mock provider in a process of their own, and name them in this process's environment.

    With `OPENAI_API_KEY` and `OPENAI_BASE_URL` set, models are asked there instead (`OPENAI_MODEL`, by default
    gpt-5-mini).

    Args:
        change_every_s: Mean seconds between changes of one account's status.
        concurrency: Requests that the mock provider takes at a time, and the pool is told of.

    Raises:
        PrerequisiteMissing: The process does not start; with its last words.
    """
    command = [sys.executable, "-m", "streams.demo.provider", "--port", "0", "--seed", str(seed), "--with-stdin"]
    command += ["--change-every-s", str(change_every_s)]
    if concurrency is not None:
        command += ["--concurrency", str(concurrency)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise PrerequisiteMissing(
                "the mock provider did not start; run `python -m streams.demo.provider` to see why"
            )
        yield _announce(url, concurrency)
    finally:
        process.terminate()
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _announce(url: str, concurrency: int | None) -> DemoWorld:
    base_url = os.environ.get("OPENAI_BASE_URL")
    real = bool(os.environ.get("OPENAI_API_KEY") and base_url)
    os.environ[BANK_VARIABLE] = f"{url}/bank"
    pool: dict[str, object]
    if real:
        model = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
        pool = {"provider": "openai", "base_url": base_url, "model": model, "keys_env": "OPENAI_API_KEY"}
    else:
        os.environ[KEYS_VARIABLE] = "mock-key"
        pool = {"provider": "openai", "base_url": f"{url}/v1", "model": "mock", "keys_env": KEYS_VARIABLE}
        if concurrency is not None:
            # A call of the mock goes on for its latency, whatever becomes of its caller.
            pool |= {"concurrency": concurrency, "abandoned_call_s": 1.0}
    os.environ.setdefault(POOLS_VARIABLE, json.dumps({"fast": pool}))
    return DemoWorld(str(base_url) if real else f"{url}/v1", f"{url}/bank", not real)
