"""`python -m tests.chaos --kills N`: prints one line of JSON; exits with 1 if anything was lost or done twice."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streams.errors import StreamsError
from tests.chaos.run import Options, run

MOST_SHOWN = 20


def main() -> int:
    """Run, print, and keep the logs of a run that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="kill -9 every role under load")
    parser.add_argument("--kills", type=int, default=100, help="processes to kill with -9; zombies and others beside")
    parser.add_argument("--seed", type=int, help="of orders and faults; printed, random by default")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone, without progress")
    parser.add_argument("--session-timeout-s", type=float, default=6.0, help="of the groups (6)")
    parser.add_argument("--workers", type=int, default=24, help="orders open at a time (24)")
    parser.add_argument("--keep", action="store_true", help="keep data and logs of a run that passed, too")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="streams-chaos-"))
    console = Console(stderr=True, quiet=given.json)
    console.print(f"{given.kills} kills with seed {seed}; logs are in {folder / 'logs'}")
    options = Options(given.kills, seed, folder, given.session_timeout_s, given.workers)
    try:
        outcome = asyncio.run(_shown(options, console))
    except StreamsError as error:
        print(f"chaos: {error}\nlogs are in {folder}", file=sys.stderr)
        return 1
    print(orjson.dumps(outcome.figures, option=orjson.OPT_NON_STR_KEYS).decode(), flush=True)
    for line in outcome.found[:MOST_SHOWN]:
        print(f"  {line}", file=sys.stderr)
    if len(outcome.found) > MOST_SHOWN:
        print(f"  and {len(outcome.found) - MOST_SHOWN} more", file=sys.stderr)
    if outcome.passed and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"seed {seed}; data and logs are kept in {folder}", file=sys.stderr)
    return 0 if outcome.passed else 1


async def _shown(options: Options, console: Console):
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=console.quiet) as bar:
        task = bar.add_task("kills", total=options.kills)

        def report(line: str) -> None:
            bar.console.print(line, highlight=False)
            if line.startswith("kill "):
                bar.advance(task)

        return await run(options, report)


if __name__ == "__main__":
    sys.exit(main())
