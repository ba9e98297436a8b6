"""Measures, one JSON line a case: `python -m tests.bench [--only NAME ...] [--plots FOLDER] [--list]`.

A case is a module of this folder with an `async def run()` that prints its lines, each with its `bench` name.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType

import uvloop

HASH_SEED = "0"


def cases() -> dict[str, ModuleType]:
    """Return the cases by name."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith(("_", "test_")))
    modules = {name: importlib.import_module(f"tests.bench.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def main() -> None:
    """Run what was asked for, everything by default."""
    known = cases()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(known), metavar="NAME", default=tuple(known))
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw what a case can draw, as PNG")
    given = parser.parse_args()
    if given.list:
        print("\n".join(known))
        return
    covered = {name for case in given.only for name in getattr(known[case], "COVERS", ())}
    for name in given.only:
        if name not in covered:
            draws = "plots" in inspect.signature(known[name].run).parameters
            uvloop.run(known[name].run(**({"plots": given.plots} if draws else {})))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:  # as processes that own shards have it
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "tests.bench", *sys.argv[1:]])
    main()
