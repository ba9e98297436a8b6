import pytest
from pydantic import SecretStr

from streams.broker.kafka.settings import KafkaSettings

faust_app = pytest.importorskip("streams.control.faust_app")


def test_a_plain_connection_needs_no_credentials():
    assert faust_app.credentials(KafkaSettings()) is None


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl_settings_become_fausts_credentials(protocol):
    settings = KafkaSettings(
        security_protocol=protocol, sasl_mechanism="SCRAM-SHA-512", sasl_username="ana", sasl_password=SecretStr("pw")
    )
    found = faust_app.credentials(settings)
    assert (found.protocol.value, found.mechanism.value) == (protocol, "SCRAM-SHA-512")
    assert (found.username, found.password) == ("ana", "pw")
    assert (found.ssl_context is not None) == (protocol == "SASL_SSL")


def test_tls_alone():
    found = faust_app.credentials(KafkaSettings(security_protocol="SSL", ssl_check_hostname=False))
    assert found.protocol.value == "SSL"
    assert not found.context.check_hostname
