"""TLS and SASL settings, tried against a listener that demands them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.broker import Message, Partition, TopicSpec
from streams.broker.embedded import EmbeddedKafka
from streams.broker.kafka import KafkaBroker, KafkaSettings
from streams.broker.table import read_to_end
from streams.errors import BrokerError, BrokerUnavailable

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of localhost, which trusts itself, in one PEM file."""
    folder = tmp_path_factory.mktemp("certificate")
    key, chain, both = folder / "key.pem", folder / "chain.pem", folder / "both.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run([*request, *names, "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    both.write_text(key.read_text() + chain.read_text())
    return both


@pytest.fixture(scope="module")
def secured(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(
        tmp_path_factory.mktemp("secured"),
        sasl={"app": "secret"},
        mechanism="SCRAM-SHA-512",
        certificate=certificate,
    ) as kafka:
        yield kafka


def settings_for(kafka: EmbeddedKafka, certificate: Path, **changed: object) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "bootstrap_servers": kafka.sasl_bootstrap,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": "app",
            "sasl_password": "secret",
            "ssl_cafile": str(certificate),
            "connect_timeout_s": 2,
            **changed,
        }
    )


async def test_every_part_of_the_adapter_works_over_tls_and_scram(secured: EmbeddedKafka, certificate: Path) -> None:
    broker = KafkaBroker(settings_for(secured, certificate))
    await broker.connect()
    await broker.admin.create_topics([TopicSpec("secured", 1), TopicSpec("owners", 1)])
    async with broker.producer() as producer:
        await producer.send(Message("secured", b"k", b"plain"))
    ring = broker.ring("secured")
    await ring.start()
    await ring.transact([Message("secured", b"k", b"transaction")])
    await ring.close()
    found = [r.value async for batch in read_to_end(broker, [Partition("secured", 0)]) for r in batch]
    assert found == [b"plain", b"transaction"]

    class Nobody:
        async def assigned(self, partitions: frozenset[int]) -> None: ...
        async def revoked(self, partitions: frozenset[int]) -> None: ...

    membership = broker.membership("group", "owners")
    await membership.start(Nobody())
    await membership.confirm()
    await membership.leave()
    await broker.close()


async def test_a_wrong_password_is_said_at_once_and_names_the_settings(
    secured: EmbeddedKafka, certificate: Path
) -> None:
    broker = KafkaBroker(settings_for(secured, certificate, sasl_password="guess", connect_timeout_s=10))
    started = time.monotonic()
    with pytest.raises(BrokerError, match=r"refused this client.*STREAMS_KAFKA__SASL_USERNAME"):
        await broker.connect()
    assert time.monotonic() - started < 5


async def test_a_certificate_that_is_not_trusted_is_the_reason_given(secured: EmbeddedKafka, certificate: Path) -> None:
    broker = KafkaBroker(settings_for(secured, certificate, ssl_cafile=None))
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        await broker.connect()


async def test_a_host_that_the_certificate_does_not_name_is_accepted_only_on_request(
    secured: EmbeddedKafka, certificate: Path
) -> None:
    lenient = KafkaBroker(settings_for(secured, certificate, ssl_check_hostname=False))
    await lenient.connect()
    await lenient.close()


async def test_a_client_without_tls_is_told_within_the_time(secured: EmbeddedKafka) -> None:
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=secured.sasl_bootstrap, connect_timeout_s=2))
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=secured.sasl_bootstrap):
        await broker.connect()
    assert time.monotonic() - started < 6
