"""The alert rules: each fires and stays silent in promtool's own evaluation, and asks for metrics that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.observe.registry import LEVELS, PHASES
from tests.unit.observe.queries import problems, selectors

FOLDER = Path(__file__).parents[3] / "infra" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CASES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.test.yaml").read_text())["tests"]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed, so THE ALERT RULES ARE NOT TESTED HERE: apt-get install prometheus (or brew)",
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


@needs_promtool
def test_every_case_comes_out_as_written() -> None:
    done = promtool("test", "rules", "rules.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_configuration_and_rules_are_valid() -> None:
    done = promtool("check", "config", "--lint=all", "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(name: str) -> None:
    tried = [test for case in CASES for test in case["alert_rule_test"] if test["alertname"] == name]
    assert any(test["exp_alerts"] for test in tried)
    assert any(not test["exp_alerts"] for test in tried)


def test_every_case_is_named_for_its_alert() -> None:
    for case in CASES:
        assert {test["alertname"] for test in case["alert_rule_test"]} == {case["name"].split()[0]}


@pytest.mark.parametrize("expression", [rule["expr"] for rule in RULES])
def test_rules_ask_only_for_what_the_registry_has(expression: str) -> None:
    assert problems(expression) == []


def test_rules_ask_only_for_values_of_labels_that_there_are() -> None:
    known = {"level": set(LEVELS), "phase": set(PHASES)}
    for rule in RULES:
        for _, matchers in selectors(rule["expr"]):
            for label, _, value in matchers:
                assert set(value.split("|")) <= known.get(label, {*value.split("|")}), rule["expr"]


def test_recorded_series_that_are_used_are_recorded() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = {name for rule in RULES for name in re.findall(r"streams:\w+(?::\w+)?", rule["expr"])}
    assert used <= recorded


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_alerts_say_how_urgent_they_are_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_burn_rates_come_in_pairs_of_windows() -> None:
    burning = [rule["expr"] for name, rule in ALERTS.items() if "Burn" in name]
    windows = sorted(tuple(re.findall(r"ratio_(\w+)", expression)) for expression in burning)
    assert windows == [("30m", "6h"), ("30m", "6h"), ("5m", "1h"), ("5m", "1h")]
