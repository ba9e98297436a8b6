"""Simulations from the command line: `python -m tests.simulation --seeds 1000`, `--seed n [--trace]`, `--mutants`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

from tests.simulation.mutants import MUTANTS, first_seed_that_finds
from tests.simulation.runner import Verdict, quick_collection, run_seed

BATCH = 25
REPORT_S = 5.0


def main() -> int:
    """Return 0 when nothing was found (or, with --mutants, when every mutant was)."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many worlds (1,000; at most 2,000 a mutant)")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--seed", type=int, help="run this one world again")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens")
    parser.add_argument("--mutants", action="store_true", help="break the code and see which seed finds it")
    given = parser.parse_args()
    if given.seed is not None:
        return replay(given.seed, trace=given.trace)
    if given.mutants:
        return hunt(range(given.start, given.start + (given.seeds or 2_000)), given.jobs)
    return simulate(given.start, given.seeds or 1_000, given.jobs)


def replay(seed: int, *, trace: bool) -> int:
    """Run one world and print its verdict."""
    verdict = run_seed(seed, trace=trace)
    print(
        f"seed {seed}: {verdict.steps} steps, {verdict.virtual_s:.1f} virtual seconds, history {verdict.fingerprint:x}"
    )
    for problem in verdict.problems:
        print(f"  {problem}")
    return bool(verdict.problems)


def simulate(start: int, count: int, jobs: int) -> int:
    """Run many worlds; print progress, speed and those that fail, each with what replays it."""
    began = reported = time.monotonic()
    done = 0
    failed: list[Verdict] = []
    for verdicts in _verdicts(range(start, start + count), jobs):
        done += len(verdicts)
        for verdict in verdicts:
            if verdict.problems:
                failed.append(verdict)
                print(f"seed {verdict.seed}: {verdict.problems[0][:1_000]}")
                print(f"  python -m tests.simulation --seed {verdict.seed} --trace", flush=True)
        now = time.monotonic()
        if now - reported >= REPORT_S or done == count:
            reported = now
            speed = f"{done / (now - began):.1f} seeds/s"
            print(f"{done} of {count} seeds, {speed}, {len(failed)} failed", flush=True)
    return bool(failed)


def hunt(seeds: range, jobs: int) -> int:
    """Print for each mutant the seed that finds it."""
    names = [name for name in MUTANTS if name != "none"]
    missed = 0
    with multiprocessing.Pool(jobs, quick_collection) as pool:
        found = pool.starmap(first_seed_that_finds, [(name, seeds) for name in names], chunksize=1)
    for name, hit in zip(names, found, strict=True):
        missed += hit is None
        said = f"seed {hit[0]}: {hit[1].splitlines()[0][:140]}" if hit else f"NOT FOUND in {len(seeds)} seeds"
        print(f"{name:32} {said}")
    return bool(missed)


def _verdicts(seeds: range, jobs: int) -> Iterator[list[Verdict]]:
    batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    if jobs == 1:
        quick_collection()
        yield from map(_run, batches)
        return
    with multiprocessing.Pool(jobs, quick_collection, maxtasksperchild=40) as pool:
        yield from pool.imap_unordered(_run, batches)


def _run(seeds: range) -> list[Verdict]:
    return [run_seed(seed) for seed in seeds]


if __name__ == "__main__":
    sys.exit(main())
