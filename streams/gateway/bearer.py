"""Whose request it is: bearer tokens (RFC 6750), each mapped to a tenant.

Every token is compared, in constant time, so that the time of an answer tells nothing about any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hmac import compare_digest

from streams.gateway.problems import Problem
from streams.gateway.settings import TokenSettings


class Bearers:
    """Knows the tokens.

    Args:
        tokens: Without any, every request is let in, for the tenant that it names.
    """

    def __init__(self, tokens: Iterable[TokenSettings]) -> None:
        self._tokens = [(t.token.get_secret_value().encode(), t.tenant, t.expires_at) for t in tokens]

    @property
    def required(self) -> bool:
        """A request needs a token."""
        return bool(self._tokens)

    def tenant_of(self, authorization: str, now: datetime) -> str | None:
        """Return the tenant of a request; None where no token is required.

        Args:
            authorization: The header, empty where there is none.

        Raises:
            Problem: 401, when the token is missing, unknown or has expired.
        """
        if not self._tokens:
            return None
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise _unauthorized("this gateway wants a token; send `Authorization: Bearer <token>`", "")
        data, tenant, expires_at = given.strip().encode("utf-8", "surrogateescape"), None, None
        for token, its_tenant, its_end in self._tokens:
            if compare_digest(data, token):
                tenant, expires_at = its_tenant, its_end
        if tenant is None:
            raise _unauthorized("the token is not known here", ' error="invalid_token"')
        if expires_at is not None and expires_at <= now:
            raise _unauthorized(
                f"the token expired at {expires_at.isoformat()}; get a new one", ' error="invalid_token"'
            )
        return tenant


def _unauthorized(detail: str, parameters: str) -> Problem:
    return Problem(401, "Unauthorized", detail, headers={"WWW-Authenticate": f"Bearer{parameters}"})
