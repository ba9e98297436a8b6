"""Where the gateway listens, whom it lets in, and how long it deals with one request."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

DEFAULT_PORT = 8_080
"""Where the gateway listens when the role is asked for by name and no port is set."""


class TokenSettings(BaseModel):
    """A bearer token.

    Attributes:
        tenant: On whose behalf its bearer acts. Several tokens may name one tenant, so that they can be exchanged.
        token: The secret.
        expires_at: After which it is refused; with a time zone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = Field(min_length=1, max_length=256)
    token: SecretStr = Field(min_length=16, max_length=4_096)
    expires_at: AwareDatetime | None = None


EVERYBODY = "*"
"""Stands for each tenant that has no limit of its own."""


class TenantLimit(BaseModel):
    """What one tenant may submit.

    Attributes:
        per_minute: Submissions a minute, in the long run.
        burst: Submissions at once after a pause; by default a tenth of a minute's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_minute: int = Field(ge=1, le=10_000_000)
    burst: int | None = Field(None, ge=1, le=10_000_000)


class GatewaySettings(BaseModel):
    """Settings of the role `gateway`.

    Attributes:
        port: Where it listens; 0 takes a free port. None leaves the role out unless it is asked for by name (then
            8080).
        host: Address to bind. Any but this machine's own needs a token.
        tokens: Who may use it; without any, whoever reaches it.
        max_wait_s: Most seconds that `?wait=` may ask for.
        body_timeout_s: Most seconds that a request's body may take to arrive.
        head_timeout_s: Most seconds that the head of a request may take to arrive, from a connection's beginning.
        max_connections: At a time. Beyond it idle ones are closed, and the answer is 503 where all are at work.
        max_stream_s: Seconds after which a stream of events is ended; whoever follows it connects again.
        limits: By tenant; `*` stands for each that is not named. Of this process: divide it among several gateways.
        cors_origins: Origins whose pages may call it from a browser; none by default.
        grace_s: Seconds that requests under way have to end when the role does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(None, ge=0, le=65_535)
    host: str = "127.0.0.1"
    tokens: tuple[TokenSettings, ...] = ()
    max_wait_s: float = Field(60.0, gt=0, le=3_600)
    body_timeout_s: float = Field(10.0, gt=0, le=600)
    head_timeout_s: float = Field(5.0, gt=0, le=600)
    max_connections: int = Field(2_000, ge=1, le=100_000)
    max_stream_s: float = Field(3_600.0, gt=0, le=86_400)
    limits: dict[str, TenantLimit] = Field(default_factory=dict)
    cors_origins: tuple[str, ...] = ()
    grace_s: int = Field(3, ge=0, le=60)
