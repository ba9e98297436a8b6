import pytest
from pydantic import ValidationError

from streams.broker.kafka.client import Connection
from streams.broker.kafka.settings import KafkaSettings
from streams.errors import SettingsError


def test_sasl_without_credentials_names_both_settings() -> None:
    with pytest.raises(ValidationError, match="STREAMS_KAFKA__SASL_USERNAME, STREAMS_KAFKA__SASL_PASSWORD"):
        KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="me")


def test_a_heartbeat_that_leaves_no_second_chance_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"heartbeat_s 3.0 exceeds a third of session_timeout_s 6.0"):
        KafkaSettings(heartbeat_s=3)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="bootstrap_server"):
        KafkaSettings.model_validate({"bootstrap_server": "localhost:9092"})


def test_a_password_is_not_shown() -> None:
    settings = KafkaSettings.model_validate({"sasl_password": "secret"})
    assert "secret" not in repr(settings)


def test_a_certificate_that_is_not_there_names_file_and_setting() -> None:
    settings = KafkaSettings(security_protocol="SSL", ssl_cafile="/nowhere/ca.pem")
    with pytest.raises(SettingsError, match=r"/nowhere/ca\.pem.*STREAMS_KAFKA__SSL_CAFILE"):
        Connection.of(settings)


def test_credentials_reach_the_client() -> None:
    settings = KafkaSettings.model_validate(
        {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "me", "sasl_password": "secret"}
    )
    options = Connection.of(settings).options
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("me", "secret")
