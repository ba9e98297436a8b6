"""The embedded broker's second listener demands what it says."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context

from streams.broker.embedded import EmbeddedKafka


async def bootstraps(address: str, protocol: str, **settings: object) -> bool:
    """Whether a client with these settings is let in."""
    client = AIOKafkaClient(
        bootstrap_servers=address, security_protocol=protocol, request_timeout_ms=5_000, retry_backoff_ms=50, **settings
    )
    try:
        await asyncio.wait_for(client.bootstrap(), 20)
    except (KafkaError, TimeoutError):
        return False
    finally:
        await client.close()
    return True


async def test_scram_lets_in_who_knows_the_password(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path, sasl={"app": "secret"}, mechanism="SCRAM-SHA-256") as kafka:
        scram = {"sasl_mechanism": "SCRAM-SHA-256", "sasl_plain_username": "app"}
        address = kafka.sasl_bootstrap
        assert await bootstraps(address, "SASL_PLAINTEXT", **scram, sasl_plain_password="secret")
        assert not await bootstraps(address, "SASL_PLAINTEXT", **scram, sasl_plain_password="guess")
        assert not await bootstraps(address, "PLAINTEXT")


async def test_plain_over_tls_lets_in_who_trusts_the_certificate(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    folder = tmp_path / "kafka"
    with EmbeddedKafka(folder, sasl={"app": "secret"}, certificate=certificate, authorizer=True) as kafka:
        plain = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "app", "sasl_plain_password": "secret"}
        trusting = create_ssl_context(cafile=str(certificate))
        trusting.check_hostname = False
        assert await bootstraps(kafka.sasl_bootstrap, "SASL_SSL", **plain, ssl_context=trusting)
        assert not await bootstraps(kafka.sasl_bootstrap, "SASL_SSL", **plain, ssl_context=create_ssl_context())


def _certificate(folder: Path) -> Path:
    """Make a key and a certificate of its own in one PEM file."""
    key, chain, both = folder / "key.pem", folder / "chain.pem", folder / "both.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(
            [*request, *names, "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    both.write_text(key.read_text() + chain.read_text())
    return both
