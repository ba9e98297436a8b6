"""`python -m streams.records write|check|release`: what `schemas/` holds, derived from the records.

A tool of this repository: it works on the checkout that it is in.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

from streams.records.avro import file_name, render, schema_of
from streams.records.codec import RECORDS, fingerprint_of

FOLDER = Path(__file__).parents[2] / "schemas"
RELEASED = "released"


def derived() -> dict[str, str]:
    """Return what belongs into `schemas/`: file name to content."""
    import yaml

    from streams.records.asyncapi import describe

    schemas = {file_name(record): render(schema_of(record)) for record in RECORDS}
    text = yaml.safe_dump(describe(_version()), sort_keys=False, width=100, allow_unicode=True)
    return {**schemas, "asyncapi.yaml": f"# Made by `make schemas`.\n{text}"}


def stale(folder: Path = FOLDER) -> list[str]:
    """Return the names of files that are missing, differ from what is derived, or belong to no record."""
    wanted = derived()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.*") if path.is_file()}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write(folder: Path = FOLDER) -> list[str]:
    """Write what is derived, delete what belongs to no record; return the names of files that changed."""
    changed, wanted = stale(folder), derived()
    folder.mkdir(exist_ok=True)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def release(version: str, folder: Path = FOLDER) -> list[str]:
    """Keep the schemas of a release; return the names of files that changed.

    A schema that no release has yet is kept as `released/<record>-<version>.avsc`, so that what was ever written stays
    readable. Releasing a version again replaces its files, for the time before it is out.
    """
    kept = folder / RELEASED
    kept.mkdir(parents=True, exist_ok=True)
    before = {path.name: path.read_text(encoding="utf-8") for path in kept.glob(f"*-{version}.avsc")}
    for name in before:
        (kept / name).unlink()
    known = {_fingerprint(path) for path in kept.glob("*.avsc")}
    after = {}
    for record in RECORDS:
        schema = schema_of(record)
        if fingerprint_of(schema) not in known:
            name = file_name(record, version)
            after[name] = render(schema)
            (kept / name).write_text(after[name], encoding="utf-8")
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m streams.records", description=__doc__)
    parser.add_argument("action", choices=("write", "check", "release"))
    parser.add_argument("--version", default=_version(), help="of the release; by default the package's")
    chosen = parser.parse_args(arguments)
    if chosen.action == "check":
        changed, said = stale(), "is not what the records say; run `make schemas`"
    elif chosen.action == "write":
        changed, said = write(), "written"
    else:
        changed, said = release(chosen.version), "released"
    for name in changed:
        sys.stdout.write(f"{name} {said}\n")
    return 1 if changed and chosen.action == "check" else 0


def _fingerprint(path: Path) -> bytes:
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return fingerprint_of(schema)


def _version() -> str:
    return importlib.metadata.version("agent-streams")


if __name__ == "__main__":
    raise SystemExit(main())
