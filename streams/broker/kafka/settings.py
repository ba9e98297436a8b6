"""How to reach Kafka, and how long to wait for it: one frozen model, validated once at the edge."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

ADDRESS_SETTING = "STREAMS_KAFKA__BOOTSTRAP_SERVERS"
"""The environment variable of `bootstrap_servers`, for messages that tell a user what to change."""

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class KafkaSettings(BaseModel):
    """Connection to a Kafka cluster.

    Attributes:
        bootstrap_servers: One or more `host:port`, separated by commas.
        client_id: Shown in the brokers' logs, metrics and quotas.
        security_protocol: How connections are secured; the SASL and SSL settings below apply accordingly.
        ssl_cafile: Certificates that are trusted; the system's when not set.
        ssl_certfile: This client's certificate, where the broker asks for one; with `ssl_keyfile`, `ssl_password`.
        ssl_check_hostname: Turn off only for certificates that cannot name their host.
        connect_timeout_s: How long a first connection is tried before `BrokerUnavailable`.
        request_timeout_s: Bound on every other call; also on a commit, which is ambiguous beyond it.
        session_timeout_s: A process that is silent for so long loses its partitions. The brokers' lower bound is 6 s
            unless `group.min.session.timeout.ms` says otherwise.
        heartbeat_s: Time between two signs of life; at most a third of `session_timeout_s`.
        rebalance_timeout_s: How long the group waits for a member to let go of its partitions.
        compression: Of what is written.
        max_request_bytes: Largest record; keep it at or below the topics' `max.message.bytes`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = "127.0.0.1:9092"
    client_id: str = "streams"
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: SecretStr | None = None
    ssl_check_hostname: bool = True
    connect_timeout_s: float = Field(default=10.0, gt=0, le=14)
    request_timeout_s: float = Field(default=10.0, gt=0)
    session_timeout_s: float = Field(default=6.0, gt=0)
    heartbeat_s: float = Field(default=1.0, gt=0)
    rebalance_timeout_s: float = Field(default=15.0, gt=0)
    compression: Literal["none", "lz4"] = "none"
    max_request_bytes: int = Field(default=1_048_576, ge=1024)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.security_protocol.startswith("SASL") and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs sasl_username and sasl_password "
                "(STREAMS_KAFKA__SASL_USERNAME, STREAMS_KAFKA__SASL_PASSWORD)"
            )
        if self.heartbeat_s * 3 > self.session_timeout_s:
            raise ValueError(
                f"heartbeat_s {self.heartbeat_s} exceeds a third of session_timeout_s {self.session_timeout_s}; "
                "one lost heartbeat would cost the process its partitions"
            )
        return self
