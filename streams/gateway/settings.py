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


class GatewaySettings(BaseModel):
    """Settings of the role `gateway`.

    Attributes:
        port: Where it listens; 0 takes a free port. None leaves the role out unless it is asked for by name (then
            8080).
        host: Address to bind. Any but this machine's own needs a token.
        tokens: Who may use it; without any, whoever reaches it.
        max_wait_s: Most seconds that `?wait=` may ask for.
        body_timeout_s: Most seconds that a request's body may take to arrive.
        max_connections: Connections and requests at a time; beyond it the answer is 503.
        grace_s: Seconds that requests under way have to end when the role does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(None, ge=0, le=65_535)
    host: str = "127.0.0.1"
    tokens: tuple[TokenSettings, ...] = ()
    max_wait_s: float = Field(60.0, gt=0, le=3_600)
    body_timeout_s: float = Field(10.0, gt=0, le=600)
    max_connections: int = Field(2_000, ge=1, le=100_000)
    grace_s: int = Field(3, ge=0, le=60)
