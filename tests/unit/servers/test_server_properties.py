"""What the embedded broker and the containers are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.broker.server_properties import KafkaConfig, SecureListener
from streams.testing.containers import kafka_environment


def config(**changes: object) -> KafkaConfig:
    return KafkaConfig(**{"data_dir": Path("/data"), "port": 9092, "controller_port": 9093, **changes})  # type: ignore[arg-type]


def test_one_node_listens_on_the_loopback_interface_only() -> None:
    properties = config().properties()
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9092"
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:9093"


def test_nothing_is_replicated_on_one_node() -> None:
    factors = {name: value for name, value in config().properties().items() if name.endswith("replication.factor")}
    assert set(factors) == {
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
    }
    assert set(factors.values()) == {"1"}


def test_topics_are_never_made_by_accident() -> None:
    assert config().properties()["auto.create.topics.enable"] == "false"


@pytest.mark.parametrize(("fsync", "interval"), [(False, None), (True, "1")])
def test_fsync_syncs_every_append(fsync: bool, interval: str | None) -> None:
    assert config(fsync=fsync).properties().get("log.flush.interval.messages") == interval


def test_plain_listener_carries_its_users_in_the_configuration() -> None:
    secure = SecureListener(9094, "PLAIN", {"app": "secret"})
    properties = config(secure=secure).properties()
    assert "SECURE://127.0.0.1:9094" in properties["advertised.listeners"]
    assert "SECURE:SASL_PLAINTEXT" in properties["listener.security.protocol.map"]
    assert 'user_app="secret"' in properties["listener.name.secure.plain.sasl.jaas.config"]
    assert config(secure=secure).format_arguments() == []


def test_scram_users_are_stored_when_the_folder_is_formatted() -> None:
    secure = SecureListener(9094, "SCRAM-SHA-512", {"app": "secret"})
    assert config(secure=secure).format_arguments() == ["--add-scram", "SCRAM-SHA-512=[name=app,password=secret]"]
    assert "secret" not in config(secure=secure).render()


def test_a_certificate_makes_the_listener_tls() -> None:
    secure = SecureListener(9094, "PLAIN", {"app": "secret"}, Path("/both.pem"))
    properties = config(secure=secure).properties()
    assert "SECURE:SASL_SSL" in properties["listener.security.protocol.map"]
    assert properties["listener.name.secure.ssl.keystore.location"] == "/both.pem"


@pytest.mark.parametrize("text", ["", 'a"b', "a,b", "a=b", "a\nb", "[a]", "a;b"])
def test_a_password_that_would_break_out_of_its_setting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain words"):
        SecureListener(9094, "PLAIN", {"app": text})


def test_rendering_keeps_backslashes() -> None:
    assert "log.dirs=C:\\\\data\n" in config(data_dir=Path("C:\\data")).render()


def test_extra_settings_win() -> None:
    assert config(extra={"min.insync.replicas": "2"}).properties()["min.insync.replicas"] == "2"


def test_a_container_gets_the_same_settings_and_reaches_itself_inside() -> None:
    environment = kafka_environment(31_000)
    assert environment["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://127.0.0.1:31000,INSIDE://localhost:19092"
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] == "INSIDE"
    assert environment["KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS"] == "1000"
