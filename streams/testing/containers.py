"""Kafka and Postgres in containers, for machines that have a Docker engine.

Decides whether an engine answers and whether it has the images (or can pull them); where not, the answer is None and
the caller goes on to the embedded servers. Needs `testcontainers`, part of the `testing` extra.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from streams.broker.embedded import broker_answers
from streams.broker.server_process import LOOPBACK, free_port
from streams.broker.server_properties import KafkaConfig
from streams.errors import BrokerUnavailable, StoreUnavailable, StreamsError

KAFKA_IMAGE = "apache/kafka:4.2.1"
POSTGRES_IMAGE = "postgres:18.6"
_ENGINE_TIMEOUT_S = 10
_START_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Container:
    """A server in a container.

    Attributes:
        address: What clients connect to: bootstrap servers or a DSN.
        stop: Ends and removes the container with its data.
    """

    address: str
    stop: Callable[[], None]


def start_kafka(image: str | None = None) -> Container | None:
    """Start a broker, tuned as the embedded one; None where no engine answers or the image cannot be had.

    Args:
        image: `$STREAMS_TEST_KAFKA_IMAGE` when None, else the public one.

    Raises:
        BrokerUnavailable: It does not answer in time; has its last lines.
    """
    image = image or os.environ.get("STREAMS_TEST_KAFKA_IMAGE", KAFKA_IMAGE)
    if not image_available(image):
        return None
    port = free_port()
    container = _container(image, {9092: port}, kafka_environment(port))
    return _started(
        container, f"{LOOPBACK}:{port}", lambda: broker_answers(LOOPBACK, port), f"Kafka ({image})", BrokerUnavailable
    )


def start_postgres(image: str | None = None) -> Container | None:
    """Start a Postgres with an empty database `streams`; None where no engine answers or the image cannot be had.

    Args:
        image: `$STREAMS_TEST_POSTGRES_IMAGE` when None, else the public one.

    Raises:
        StoreUnavailable: It does not answer in time; has its last lines.
    """
    image = image or os.environ.get("STREAMS_TEST_POSTGRES_IMAGE", POSTGRES_IMAGE)
    if not image_available(image):
        return None
    port = free_port()
    container = _container(image, {5432: port}, {"POSTGRES_DB": "streams", "POSTGRES_HOST_AUTH_METHOD": "trust"})
    dsn = f"postgresql://postgres@{LOOPBACK}:{port}/streams"
    return _started(container, dsn, lambda: _postgres_answers(port), f"Postgres ({image})", StoreUnavailable)


def kafka_environment(port: int) -> dict[str, str]:
    """Return the embedded broker's settings as the environment of the public image, which reads `KAFKA_A_B` as `a.b`.

    Clients come in over *port* of the machine, which the engine maps to 9092. The broker sends transaction markers to
    itself over its own listener, since that port does not exist inside the container.
    """
    settings = KafkaConfig(data_dir=Path("/tmp/kafka-data"), port=9092, controller_port=9093).properties()
    settings |= {
        "listeners": "PLAINTEXT://:9092,INSIDE://localhost:19092,CONTROLLER://localhost:9093",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port},INSIDE://localhost:19092",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INSIDE",
        "controller.quorum.voters": "1@localhost:9093",
    }
    return {"KAFKA_" + name.replace(".", "_").upper(): value for name, value in settings.items()}


def image_available(image: str) -> bool:
    """Whether an engine answers and has *image*, or can pull it now."""
    if find_spec("docker") is None or find_spec("testcontainers") is None:
        return False
    # By name: type checkers take infra/docker for the module.
    docker: Any = import_module("docker")

    try:
        engine = docker.from_env(timeout=_ENGINE_TIMEOUT_S)
        engine.ping()
    except Exception:  # no socket, no permission, a proxy's answer: whatever it is, no engine can be used
        return False
    try:
        engine.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            docker.from_env(timeout=600).images.pull(image)
        except docker.errors.DockerException:
            return False
    finally:
        engine.close()
    return True


def _container(image: str, ports: dict[int, int], environment: dict[str, str]) -> Any:
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    # The reaper removes containers whose test session was killed. It is an image of its own, which may not be there.
    if not testcontainers_config.ryuk_disabled and not image_available(testcontainers_config.ryuk_image):
        testcontainers_config.ryuk_disabled = True
    container = DockerContainer(image)
    for inside, outside in ports.items():
        container = container.with_bind_ports(inside, outside)
    for name, value in environment.items():
        container = container.with_env(name, value)
    return container


def _started(
    container: Any, address: str, answers: Callable[[], bool], name: str, error: type[StreamsError]
) -> Container:
    container.start()
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not answers():
        if time.monotonic() > deadline:
            lines = b"".join(container.get_logs()).decode(errors="replace").splitlines()[-25:]
            container.stop()
            quoted = "\n".join(f"    {line}" for line in lines)
            raise error(f"{name} did not answer within {_START_TIMEOUT_S:.0f} s; its last lines:\n{quoted}")
        time.sleep(0.1)
    return Container(address, container.stop)


def _postgres_answers(port: int) -> bool:
    """Whether Postgres answers `SSLRequest` with N or S and has finished making its database.

    The public image starts a first server, without a TCP port, to make the database; so the port tells.
    """
    try:
        with socket.create_connection((LOOPBACK, port), 1.0) as connection:
            connection.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
            return connection.recv(1) in (b"N", b"S")
    except OSError:
        return False
