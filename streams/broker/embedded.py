"""A real Kafka as a child process: one JVM, broker and controller in one, ready in about four seconds.

It survives the death of any client; a power cut can cost it what the page cache held unless `fsync=True`. It ends with
the process that started it. Data is kept in a folder, together with the ports, so that an address stays valid.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from streams.broker.jars import find_java, kafka_jars
from streams.broker.server_process import LOOPBACK, EmbeddedServer, ServerProcess, free_port, port_is_free
from streams.broker.server_properties import KafkaConfig, Mechanism, SecureListener
from streams.errors import BrokerUnavailable

DURABILITY_NOTICE = (
    "One Kafka node: it survives the death of any process; a power cut can cost what the page cache held "
    "(--fsync syncs every write, at a third of the speed)."
)

_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %-5p %m (%c{1})%n
logger.started.name = kafka.server.KafkaRaftServer
logger.started.level = info
"""


class EmbeddedKafka(EmbeddedServer):
    """One embedded broker over a data folder.

    Args:
        data_dir: Data, ports, configuration and log. Made when missing.
        fsync: Sync every append before it is acknowledged.
        fresh: Throw away what the folder holds before starting.
        port: Of the listener without authentication; the one used last time or a free one when None.
        sasl: Passwords by user; adds a listener that demands SASL, at `sasl_bootstrap`.
        mechanism: What that listener accepts.
        certificate: PEM file with private key and certificate chain; makes that listener SASL_SSL.
        authorizer: Enforce ACLs. Who comes over the listener without authentication may do everything.
        extra: Broker settings as Kafka spells them.
        timeout_s: How long a start may take.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: bool = False,
        fresh: bool = False,
        port: int | None = None,
        sasl: Mapping[str, str] | None = None,
        mechanism: Mechanism = "PLAIN",
        certificate: Path | None = None,
        authorizer: bool = False,
        extra: Mapping[str, str] | None = None,
        timeout_s: float = 90.0,
    ) -> None:
        super().__init__(data_dir)
        self._fsync = fsync
        self._fresh = fresh
        self._port = port
        self._sasl = sasl
        self._mechanism: Mechanism = mechanism
        self._certificate = certificate
        self._authorizer = authorizer
        self._extra = dict(extra or {})
        self._timeout_s = timeout_s
        self._ports: dict[str, int] = {}

    def start(self) -> None:
        """Start the broker and return once it answers. Idempotent while it runs.

        Raises:
            PrerequisiteMissing: Java or Kafka's jars cannot be had; names three ways out.
            SettingsError: The port asked for is in use.
            BrokerUnavailable: It ended or did not answer in time; has its last lines.
        """
        if self._process is not None and self._process.alive:
            return
        java, jars = find_java(), kafka_jars()
        if self._fresh:
            shutil.rmtree(self.data_dir, ignore_errors=True)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._choose_ports()
        config = self._config()
        properties = self.data_dir / "server.properties"
        properties.write_text(config.render())
        log4j = self.data_dir / "log4j2.properties"
        log4j.write_text(_LOG4J)

        classpath = ["-cp", f"{jars}/*", "-XX:+UseSerialGC", "-XX:-UsePerfData", f"-Dlog4j2.configurationFile={log4j}"]
        if not (config.data_dir / "meta.properties").exists():
            _format([str(java), *classpath, "-XX:TieredStopAtLevel=1"], properties, config)
        memory = ["-Xms256m", "-Xmx768m", "-XX:+ExitOnOutOfMemoryError"]
        process = ServerProcess(
            "embedded Kafka",
            [str(java), *classpath, *memory, "kafka.Kafka", str(properties)],
            log_file=self.log_file,
            error=BrokerUnavailable,
        )
        process.start()
        process.wait_until(lambda: broker_answers(LOOPBACK, config.port), timeout_s=self._timeout_s)
        self._process = process

    @property
    def bootstrap(self) -> str:
        """Address for clients without authentication; valid once started."""
        return f"{LOOPBACK}:{self._ports['port']}"

    @property
    def sasl_bootstrap(self) -> str:
        """Address of the listener that demands SASL; valid once started with *sasl*."""
        return f"{LOOPBACK}:{self._ports['sasl_port']}"

    def _choose_ports(self) -> None:
        """Keep the ports of the last start where they are free, so that addresses in settings and shells stay valid."""
        remembered = self.data_dir / "ports.json"
        earlier: dict[str, int] = json.loads(remembered.read_text()) if remembered.exists() else {}
        ports = {}
        for name, wanted in (("port", self._port), ("controller_port", None), ("sasl_port", None)):
            known = earlier.get(name)
            reusable = wanted is None and known is not None and port_is_free(known)
            ports[name] = known if reusable and known is not None else free_port(wanted, setting="--kafka-port")
        remembered.write_text(json.dumps(ports))
        self._ports = ports

    def _config(self) -> KafkaConfig:
        secure = None
        if self._sasl is not None:
            secure = SecureListener(self._ports["sasl_port"], self._mechanism, self._sasl, self._certificate)
        return KafkaConfig(
            data_dir=self.data_dir / "data",
            port=self._ports["port"],
            controller_port=self._ports["controller_port"],
            secure=secure,
            authorizer=self._authorizer,
            fsync=self._fsync,
            extra=self._extra,
        )


def broker_answers(host: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether a broker answers an ApiVersions request (version 0); its port alone opens before it serves requests."""
    request = struct.pack(">hhih", 18, 0, 1, -1)  # key, version, correlation ID, no client ID
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(10)
    except OSError:
        return False
    return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)


def _format(java: list[str], properties: Path, config: KafkaConfig) -> None:
    cluster_id = urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()
    if cluster_id.startswith("-"):
        cluster_id = "A" + cluster_id[1:]  # else the formatter takes it for an option
    command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
    done = subprocess.run(
        [*command, *config.format_arguments()], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        lines = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-15:])
        raise BrokerUnavailable(f"Kafka's storage formatter failed with code {done.returncode}:\n{lines}")
