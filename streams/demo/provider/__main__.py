"""`python -m streams.demo.provider`: the mock provider as a process, with the demo's bank under `/bank`.

Its first line on standard output is its address; nothing else is printed there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Annotated

import typer
import uvloop
from pydantic import ValidationError

from streams.demo.accounts import World
from streams.demo.bank import Bank
from streams.demo.provider.config import MockConfig
from streams.demo.provider.server import MockProvider


def main(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute for each key.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute for each key, input and output together.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests open at once for each key.")] = None,
    burst_s: Annotated[float, typer.Option(help="Seconds' worth of the limits that can be used at once.")] = 60.0,
    latency_p50: Annotated[float, typer.Option(help="Median seconds to answer.")] = 0.0,
    latency_p99: Annotated[float | None, typer.Option(help="99th percentile; without it latency is fixed.")] = None,
    error_rate: Annotated[float, typer.Option(help="Share of requests that get a 500.")] = 0.0,
    hang_rate: Annotated[float, typer.Option(help="Share of requests that are never answered.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For latency, errors, hangs and the bank's world.")] = 0,
    key: Annotated[list[str] | None, typer.Option(help="An API key to accept; repeatable. Without it: any.")] = None,
    config: Annotated[str | None, typer.Option(help="Everything above and more as JSON; see MockConfig.")] = None,
    change_every_s: Annotated[float, typer.Option(help="Bank: mean seconds between changes of one account.")] = 30.0,
    with_stdin: Annotated[bool, typer.Option(help="End when standard input ends, as when the parent dies.")] = False,
) -> None:
    """Run a strict mock of an LLM provider, and the demo's bank."""
    limits = {
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "concurrency": concurrency,
        "burst_s": burst_s,
    }
    told = {
        "limits": limits,
        "keys": dict.fromkeys(key, limits) if key else None,
        "latency_p50_s": latency_p50,
        "latency_p99_s": latency_p99,
        "error_rate": error_rate,
        "hang_rate": hang_rate,
        "seed": seed,
    }
    try:
        mock = MockConfig.model_validate({**told, **(json.loads(config) if config else {})})
        bank = Bank(World(seed, time.time(), change_every_s))
    except (ValidationError, ValueError, TypeError) as error:
        raise typer.BadParameter(str(error)) from None
    uvloop.run(_serve(MockProvider(mock, mounts={"bank": bank}, host=host, port=port), with_stdin))


async def _serve(provider: MockProvider, with_stdin: bool) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        async with provider:
            sys.stdout.write(provider.url + "\n")
            sys.stdout.flush()
            if with_stdin:
                loop.add_reader(sys.stdin.fileno(), _stdin_readable, ended)
            await ended.wait()
    except OSError as error:
        raise SystemExit(
            f"the mock provider cannot listen: {error}; choose another --port, or 0 for a free one"
        ) from None


def _stdin_readable(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        ended.set()


if __name__ == "__main__":
    typer.run(main)
