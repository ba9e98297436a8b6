"""Whether the gateway runs, for whom it listens, and which ports processes take."""

from random import Random
from typing import Any

import pytest
from pydantic import SecretStr

from streams import App, Settings
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.cli.roles import ROLES, default_roles, process_environment
from streams.errors import SettingsError
from streams.gateway import GatewaySettings, TokenSettings
from streams.gateway.role import GatewayRole
from streams.observe import ObserveSettings

SECRET = "s" * 20


def role(**gateway: Any) -> GatewayRole:
    settings = Settings(gateway=GatewaySettings(**gateway))
    app = App("gate")
    return GatewayRole(app, SimulatedBroker(SimulatedLog(Random(0)), "p"), settings.catalogue("gate"), settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "gateway.internal"])
def test_it_does_not_listen_for_others_without_a_token(host):
    with pytest.raises(SettingsError, match=r"without a token.*STREAMS_GATEWAY__TOKENS"):
        role(host=host)
    role(host=host, tokens=(TokenSettings(tenant="acme", token=SecretStr(SECRET)),))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_none(host):
    assert role(host=host).address == ""


def test_it_runs_by_default_only_with_a_port():
    assert set(ROLES) - set(default_roles(Settings())) == {"gateway"}
    assert "gateway" in default_roles(Settings(gateway=GatewaySettings(port=8080)))


def test_processes_on_one_machine_have_ports_and_names_of_their_own():
    settings = Settings(
        instance_id="host", gateway=GatewaySettings(port=8080), observe=ObserveSettings(port=9100)
    )  # fmt: skip
    assert process_environment(settings, 2) == {
        "STREAMS_INSTANCE_ID": "host-2",
        "STREAMS_GATEWAY__PORT": "8082",
        "STREAMS_OBSERVE__PORT": "9102",
    }


def test_without_ports_processes_are_given_none():
    assert set(process_environment(Settings(), 0)) == {"STREAMS_INSTANCE_ID"}
