"""What is missing on a machine is named, with three ways to fix it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from streams.broker import jars
from streams.errors import PrerequisiteMissing

SCRIPT = Path(__file__).parents[3] / "infra" / "check_prerequisites.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = spec_from_file_location("check_prerequisites", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_supported_pythons_pass(check: ModuleType, version: tuple[int, int]) -> None:
    assert check.python_problem(version, []) is None


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_other_pythons_are_named(check: ModuleType, version: tuple[int, int]) -> None:
    assert check.python_problem(version, []) == f"Python 3.11 to 3.13 is needed, this is 3.{version[1]}."


def test_a_python_that_cannot_make_environments_is_named(check: ModuleType) -> None:
    assert "ensurepip" in check.python_problem((3, 11), ["ensurepip"])


@pytest.mark.parametrize(
    ("environment", "java", "maven", "docker"),
    [
        ({}, 17, True, False),
        ({}, None, False, True),
        ({"STREAMS_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092"}, None, False, False),
    ],
)
def test_each_of_the_three_ways_is_enough(
    check: ModuleType, environment: dict[str, str], java: int | None, maven: bool, docker: bool
) -> None:
    assert check.server_problem(environment, java, maven, docker) is None


@pytest.mark.parametrize(
    ("java", "maven", "named"), [(None, True, "no Java"), (11, True, "Java 11"), (21, False, "no Maven")]
)
def test_what_is_missing_is_named(check: ModuleType, java: int | None, maven: bool, named: str) -> None:
    assert named in check.server_problem({}, java, maven, docker=False)


def test_a_bare_machine_is_told_three_ways(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "no Java, no Maven, no Docker engine that answers" in done.stderr
    assert all(f"  {number}. " in done.stderr for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("command not found", None),
    ],
)
def test_java_versions_are_read(printed: str, version: int | None) -> None:
    assert jars.java_version(printed) == version


def test_without_java_the_embedded_broker_names_three_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(PrerequisiteMissing, match=r"no java found.*\(1\).*\(2\).*\(3\).*STREAMS_KAFKA__BOOTSTRAP"):
        jars.find_java()


def test_an_old_java_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(PrerequisiteMissing, match="has version 11; Kafka needs 17"):
        jars.find_java()


def test_without_maven_and_without_a_cache_the_three_ways_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteMissing, match=r"no mvn found.*Three ways"):
        jars.kafka_jars(tmp_path / "cache")


def test_a_maven_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] repository is not reachable'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteMissing, match=r"(?s)repository is not reachable.*Three ways"):
        jars.kafka_jars(tmp_path / "cache")
    assert not jars.jars_folder(tmp_path / "cache").exists()


def test_jars_in_the_cache_need_no_maven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("STREAMS_CACHE", str(tmp_path / "cache"))
    jars.jars_folder().mkdir(parents=True)
    assert jars.kafka_jars() == jars.jars_folder()
