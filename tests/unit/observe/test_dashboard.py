"""The Grafana dashboard: what is in the repository is what the script makes, and every query can be answered."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.unit.observe.queries import problems

FOLDER = Path(__file__).parents[3] / "infra" / "grafana"
TEXT = (FOLDER / "agent-streams.json").read_text()
DASHBOARD: dict[str, Any] = json.loads(TEXT)
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_file_is_what_the_script_makes() -> None:
    made = runpy.run_path(str(FOLDER / "dashboard.py"))["to_json"]()
    assert made == TEXT, "write it again: python infra/grafana/dashboard.py"


def test_the_models_of_grafana_read_it_and_lose_nothing() -> None:
    register_default_plugins()
    assert json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(json.loads(TEXT)))) == DASHBOARD


@pytest.mark.parametrize("query", sorted(set(QUERIES)))
def test_panels_ask_only_for_what_the_registry_has(query: str) -> None:
    assert problems(query) == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus")
def test_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"q:{n}", "expr": q.replace("$__rate_interval", "1m")} for n, q in enumerate(QUERIES)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_works_with_whatever_prometheus_it_is_imported_to() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    assert {panel["datasource"]["uid"] for panel in PANELS} == {f"${{{variable['name']}}}"}


def test_panels_have_their_places_and_numbers_to_themselves() -> None:
    cells = Counter(
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )
    assert set(cells.values()) == {1}
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_four_that_matter_first_are_shown() -> None:
    asked = " ".join(QUERIES)
    first = (
        "streams_queue_depth",
        "streams_queue_oldest_seconds",
        "streams_transaction_seconds",
        "streams_breaker_phase",
    )
    assert [name for name in (*first, "streams_invocation_tokens") if name not in asked] == []
