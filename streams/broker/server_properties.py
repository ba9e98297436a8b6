"""What the embedded broker is told: a typed configuration and its `server.properties`.

Pure. One node is broker and controller; every value that differs from Kafka's default has its reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class SecureListener:
    """A second listener that demands SASL, to try settings against; clients without credentials are refused.

    Attributes:
        port: On the loopback interface.
        mechanism: The one mechanism that it accepts.
        users: Passwords by user name. For SCRAM they are stored when the data folder is formatted, and only then.
        certificate: PEM file with the server's private key (PKCS 8) and its certificate chain; makes the listener
            SASL_SSL instead of SASL_PLAINTEXT.
    """

    port: int
    mechanism: Mechanism
    users: Mapping[str, str]
    certificate: Path | None = None

    def __post_init__(self) -> None:
        for text in (*self.users, *self.users.values()):
            if not text or any(c in text for c in '"\\,=[];') or not text.isprintable():
                raise ValueError(f"user names and passwords of the embedded broker are plain words, got {text!r}")

    @property
    def protocol(self) -> str:
        """The security protocol, as clients spell it."""
        return "SASL_SSL" if self.certificate else "SASL_PLAINTEXT"


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Configuration of one embedded broker.

    Attributes:
        data_dir: Folder of the logs.
        port: Of the listener without authentication.
        controller_port: Of the KRaft controller.
        secure: A second listener that demands SASL.
        authorizer: Enforce ACLs; who comes without authentication is the superuser then.
        fsync: Sync every append to disk before it is acknowledged.
        extra: Settings as Kafka spells them, over everything else.
    """

    data_dir: Path
    port: int
    controller_port: int
    secure: SecureListener | None = None
    authorizer: bool = False
    fsync: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    def properties(self) -> dict[str, str]:
        """Return every setting that is given to the broker."""
        return {**self._listeners(), **_ONE_NODE, **_QUICK, **self._optional(), **self.extra}

    def render(self) -> str:
        """Return the text of `server.properties`."""
        return "".join(f"{name}={_escape(value)}\n" for name, value in self.properties().items())

    def format_arguments(self) -> list[str]:
        """Return what the storage formatter needs to know besides the cluster ID: users of SCRAM."""
        if self.secure is None or self.secure.mechanism == "PLAIN":
            return []
        users = self.secure.users.items()
        values = [f"{self.secure.mechanism}=[name={user},password={password}]" for user, password in users]
        return [part for value in values for part in ("--add-scram", value)]

    def _listeners(self) -> dict[str, str]:
        public = {"PLAINTEXT": self.port}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        if self.secure is not None:
            public["SECURE"] = self.secure.port
            protocols["SECURE"] = self.secure.protocol

        def spelled(ports: Mapping[str, int]) -> str:
            return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())

        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "log.dirs": str(self.data_dir),
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": spelled({**public, "CONTROLLER": self.controller_port}),
            "advertised.listeners": spelled(public),
            "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
        }

    def _optional(self) -> dict[str, str]:
        settings: dict[str, str] = {}
        if self.fsync:
            settings["log.flush.interval.messages"] = "1"
        if self.authorizer:
            settings["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            settings["super.users"] = "User:ANONYMOUS"
        if self.secure is not None:
            settings.update(_secure_settings(self.secure))
        return settings


def _secure_settings(secure: SecureListener) -> dict[str, str]:
    listener = "listener.name.secure"
    if secure.mechanism == "PLAIN":
        users = " ".join(f'user_{user}="{password}"' for user, password in secure.users.items())
        login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    else:
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings = {
        f"{listener}.sasl.enabled.mechanisms": secure.mechanism,
        f"{listener}.{secure.mechanism.lower()}.sasl.jaas.config": login,
    }
    if secure.certificate is not None:
        settings[f"{listener}.ssl.keystore.type"] = "PEM"
        settings[f"{listener}.ssl.keystore.location"] = str(secure.certificate)
    return settings


def _escape(value: str) -> str:
    """Java reads a backslash in a properties file as the beginning of an escape."""
    return value.replace("\\", "\\\\")


_ONE_NODE: Mapping[str, str] = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
}

_QUICK: Mapping[str, str] = {
    # A misspelt topic is an error, as on the clusters that people run.
    "auto.create.topics.enable": "false",
    # Each partition of these is a folder to create and to load at the first start and at every later one.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "1",
    # A group of one waits for nobody; a member that was killed is noticed after its own session timeout, not after 6 s.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # An abandoned transaction hides later records until it is ended; the default looks for them every 10 s only.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # The default, 128 MB, would be a sixth of the heap.
    "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
}
