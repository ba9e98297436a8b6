"""Where the embedded broker's program comes from: a Java that is new enough, and Kafka's jars in a cache.

The jars are resolved by Maven from `infra/kafka/pom.xml`, once for each version of that file, into `$STREAMS_CACHE`
(`~/.cache/agent-streams`). Processes that need them at the same time wait for the one that fetches.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from streams.errors import PrerequisiteMissing

JAVA_AT_LEAST = 17
_RESOLVE_TIMEOUT_S = 600.0

THREE_WAYS = (
    f"Three ways to get a Kafka: (1) install Java {JAVA_AT_LEAST} or newer and Maven, for the embedded one; "
    "(2) start a Docker engine, and use infra/docker/compose.yaml; "
    "(3) point STREAMS_KAFKA__BOOTSTRAP_SERVERS (and STREAMS_MEMORY__DSN for Postgres) at servers that run already."
)


def find_java() -> Path:
    """Return a `java` that can run the broker: `$JAVA_HOME`'s, else the one on the path.

    Raises:
        PrerequisiteMissing: There is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise PrerequisiteMissing(f"no java found in $JAVA_HOME or on the path. {THREE_WAYS}")
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=False)
    version = java_version(answer.stderr + answer.stdout)
    if version is None or version < JAVA_AT_LEAST:
        seen = f"version {version}" if version else "no version that can be read"
        raise PrerequisiteMissing(f"{found} has {seen}; Kafka needs {JAVA_AT_LEAST} or newer. {THREE_WAYS}")
    return Path(found)


def java_version(printed: str) -> int | None:
    """Return the feature version in what `java -version` printed (`17.0.15` and `1.8.0_402` mean 17 and 8)."""
    match = re.search(r'version "(?:1\.)?(\d+)', printed)
    return int(match.group(1)) if match else None


def cache_dir() -> Path:
    """Return the folder for what is downloaded once: `$STREAMS_CACHE`, else `~/.cache/agent-streams`."""
    chosen = os.environ.get("STREAMS_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "agent-streams"


def pom_file() -> Path:
    """Return Kafka's `pom.xml`: inside the installed package, else in the checkout."""
    packaged = Path(__file__).parent / "pom.xml"
    return packaged if packaged.exists() else Path(__file__).parents[2] / "infra" / "kafka" / "pom.xml"


def jars_folder(cache: Path | None = None) -> Path:
    """Return where the jars of this version's `pom.xml` are, or will be; a folder that exists is complete."""
    return (cache or cache_dir()) / f"kafka-{hashlib.sha256(pom_file().read_bytes()).hexdigest()[:12]}"


def kafka_jars(cache: Path | None = None) -> Path:
    """Return the folder with the broker's jars, resolving them first where the cache does not have them.

    Raises:
        PrerequisiteMissing: They are not in the cache and Maven is missing or fails.
    """
    folder = jars_folder(cache)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _resolve(pom_file(), folder)
    return folder


def _resolve(pom: Path, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise PrerequisiteMissing(
            f"no mvn found on the path, and Kafka's jars are not in {folder.parent}. {THREE_WAYS}"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="kafka-partial-") as partial:
        jars = Path(partial) / "jars"
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        command = [maven, "-B", "-q", "-f", str(pom), *goal]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_RESOLVE_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise PrerequisiteMissing(
                f"mvn did not resolve Kafka's jars within {_RESOLVE_TIMEOUT_S:.0f} s; is a Maven repository reachable? "
                + THREE_WAYS
            ) from None
        if done.returncode != 0 or not any(jars.glob("kafka_*.jar")):
            lines = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-10:])
            raise PrerequisiteMissing(f"mvn could not resolve Kafka's jars:\n{lines}\n{THREE_WAYS}")
        jars.rename(folder)  # atomic
