"""Says what this machine lacks for the project, before anything is installed, with the three ways to fix it.

Runs on the system's Python with the standard library alone, on an old one too: that is one of the things it reports.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

PYTHON_FROM, PYTHON_TO = (3, 11), (3, 13)
JAVA_FROM = 17
BOOTSTRAP, DSN = "STREAMS_KAFKA__BOOTSTRAP_SERVERS", "STREAMS_MEMORY__DSN"

PYTHON_WAYS = """\
Three ways to fix it:
  1. name one that is installed:   make PYTHON=/path/to/python3.12
  2. install it from your system:  for example  apt-get install python3.11 python3.11-venv
  3. let pyenv or uv install it:   pyenv install 3.12   or   uv python install 3.12
"""

SERVER_WAYS = """\
Three ways to fix it:
  1. install Java {java} or newer and Maven (apt-get install openjdk-17-jre-headless maven): Kafka is then embedded
  2. start a Docker engine that this user may use: Kafka then runs in a container
  3. point at servers that run already:
       export {bootstrap}=host:9092
       export {dsn}=postgresql://user@host/database
"""


def python_problem(version: tuple[int, int], modules: Sequence[str]) -> str | None:
    """Return what is wrong with the interpreter, or None; *modules* are the names of standard modules that it lacks."""
    if not PYTHON_FROM <= version <= PYTHON_TO:
        return "Python {}.{} to {}.{} is needed, this is {}.{}.".format(*PYTHON_FROM, *PYTHON_TO, *version)
    if modules:
        return "Python lacks {} (on Debian in the package python3-venv).".format(" and ".join(modules))
    return None


def server_problem(environment: Mapping[str, str], java: int | None, maven: bool, docker: bool) -> str | None:
    """Return why no Kafka can be had, or None.

    Args:
        environment: Variables of the process.
        java: Feature version of Java, or None.
        maven: Whether Maven is on the path.
        docker: Whether an engine answers.
    """
    if environment.get(BOOTSTRAP) or (java is not None and java >= JAVA_FROM and maven) or docker:
        return None
    lacking = []
    if java is None:
        lacking.append("no Java")
    elif java < JAVA_FROM:
        lacking.append(f"Java {java}, which is older than {JAVA_FROM}")
    if not maven:
        lacking.append("no Maven")
    lacking += ["no Docker engine that answers", f"no {BOOTSTRAP}"]
    return "Nothing here can give the project a Kafka: {}.".format(", ".join(lacking))


def java_version() -> int | None:
    """Return the feature version of the Java that would be used, or None."""
    home = os.environ.get("JAVA_HOME")
    own = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    java = own or shutil.which("java")
    if not java:
        return None
    answer = _run([java, "-version"])
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout) if answer else None
    return int(match.group(1)) if match else None


def docker_answers() -> bool:
    """Whether a Docker engine answers this user."""
    docker = shutil.which("docker")
    answer = _run([docker, "version", "--format", "{{.Server.Version}}"]) if docker else None
    return answer is not None and answer.returncode == 0


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def main(arguments: Sequence[str]) -> int:
    """Check Python, and with no argument `--python-only` also where a Kafka can come from; return the exit code."""
    missing = [name for name in ("venv", "ensurepip") if find_spec(name) is None]
    problem, ways = python_problem(sys.version_info[:2], missing), PYTHON_WAYS
    if problem is None and "--python-only" not in arguments:
        # Asking Java and Docker takes a moment: only where it matters.
        given = bool(os.environ.get(BOOTSTRAP))
        java = None if given else java_version()
        maven = bool(shutil.which("mvn"))
        docker = not given and not (java and maven) and docker_answers()
        problem = server_problem(os.environ, java, maven, docker)
        ways = SERVER_WAYS.format(java=JAVA_FROM, bootstrap=BOOTSTRAP, dsn=DSN)
    if problem is None:
        return 0
    sys.stderr.write(f"{problem}\n\n{ways}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
