"""Tokens stand for tenants; what is forged, missing or expired is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from streams.gateway import TokenSettings
from streams.gateway.bearer import Bearers
from streams.gateway.problems import Problem

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SECRET = "s" * 20


def bearers(**options: Any) -> Bearers:
    other = TokenSettings(tenant="other", token=SecretStr("t" * 20))
    return Bearers([TokenSettings(tenant="acme", token=SecretStr(SECRET), **options), other])


@pytest.mark.parametrize("header", [f"Bearer {SECRET}", f"bearer  {SECRET}"])
def test_a_token_stands_for_its_tenant(header):
    assert bearers().tenant_of(header, NOW) == "acme"


@pytest.mark.parametrize("header", ["", "Bearer", f"Basic {SECRET}", f"Bearer {SECRET}x", "Bearer \udcff"])
def test_a_missing_or_forged_token_is_refused(header):
    with pytest.raises(Problem) as caught:
        bearers().tenant_of(header, NOW)
    assert caught.value.status == 401
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert SECRET not in str(caught.value)


def test_an_expired_token_is_refused():
    with pytest.raises(Problem, match=r"expired at 2026-11-20T23:59:59"):
        bearers(expires_at=NOW - timedelta(seconds=1)).tenant_of(f"Bearer {SECRET}", NOW)
    assert bearers(expires_at=NOW + timedelta(seconds=1)).tenant_of(f"Bearer {SECRET}", NOW) == "acme"


def test_without_tokens_nobody_is_asked_for_one():
    assert Bearers([]).tenant_of("", NOW) is None


def test_a_token_that_can_be_guessed_is_refused():
    with pytest.raises(ValidationError, match="at least 16"):
        TokenSettings(tenant="acme", token=SecretStr("short"))
