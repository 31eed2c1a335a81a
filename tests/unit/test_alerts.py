"""Alert rules and dashboards as files: each rule has a runbook, promtool agrees, JSON is what is built."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from spike_pipelines.domain.lag import GOOD, LagVerdict

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deployments" / "prometheus" / "spike.rules.yaml"
GRAFANA = ROOT / "deployments" / "grafana"
ALERTS = {rule["alert"]: rule for group in YAML(typ="safe").load(RULES)["groups"] for rule in group["rules"]}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


@needs_promtool
def test_every_rule_fires_on_what_it_is_for_and_is_quiet_just_below():
    command = ["promtool", "test", "rules", "spike.rules.test.yaml"]
    done = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_two_replicas_of_the_appender_tell_the_same_and_every_rule_takes_it_once(tmp_path):
    """Each case again, with every series of the page twice: the same alerts, as many, the same labels."""
    cases = YAML(typ="safe").load(RULES.parent / "spike.rules.test.yaml")
    cases["rule_files"] = [str(RULES)]
    doubled = 0
    for case in cases["tests"]:
        page = [s for s in case["input_series"] if s["series"].startswith("spike_")]
        others = [s for s in case["input_series"] if s not in page]
        case["input_series"] = others + [on(replica, s) for s in page for replica in ("a:1", "b:1")]
        doubled += len(page)
    assert doubled > 2 * len(ALERTS)
    YAML(typ="safe").dump(cases, tmp_path / "twice.yaml")
    command = ["promtool", "test", "rules", tmp_path / "twice.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def on(replica, series):
    return series | {"series": series["series"].replace("{", f'{{instance="{replica}",', 1)}


def test_every_rule_has_both_cases():
    text = (RULES.parent / "spike.rules.test.yaml").read_text()
    for alert in ALERTS:
        assert f"name: {alert} fires" in text
        assert f"name: {alert} is quiet when all is well" in text


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_runbook_with_meaning_impact_diagnosis_and_mitigation(alert):
    path = ROOT / ALERTS[alert]["annotations"]["runbook_url"]
    assert path.stem == alert
    text = path.read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert f"`{ALERTS[alert]['expr']}`" in text


def test_no_runbook_is_without_its_alert():
    assert {p.stem for p in (ROOT / "docs" / "runbooks").glob("*.md")} == set(ALERTS)


def test_every_verdict_that_is_not_good_has_an_alert():
    """Too late is one alert, whatever the trend."""
    named = {m for rule in ALERTS.values() for m in re.findall(r'verdict="(\w+)"', rule["expr"])}
    by_figure = {LagVerdict.LOST, LagVerdict.FALLING_BEHIND, LagVerdict.CATCHING_UP}
    assert named | by_figure == set(LagVerdict) - GOOD


BOARDS = {name: json.loads((GRAFANA / f"{name}.json").read_text()) for name in ("fleet", "spike")}
MARKS = {mark["name"]: mark for mark in BOARDS["spike"]["annotations"]["list"]}
QUERIES = [
    *(
        (name, target["expr"])
        for name, board in BOARDS.items()
        for panel in board["panels"]
        for target in panel["targets"]
    ),
    *((name, mark["expr"]) for name, board in BOARDS.items() for mark in board["annotations"]["list"]),
]


@pytest.mark.parametrize(("board", "expr"), QUERIES)
def test_a_panel_takes_what_two_replicas_tell_once(board, expr):
    bare = re.sub(r"max(?: by \([a-z, ]+\) )?\((?:[^()]|\([^()]*\))*\)", "", expr)
    assert not re.search(r"\b(?:spike|kafka)_\w+", bare), f"{board}.json: {expr}"


def test_one_spikes_dashboard_marks_its_creation_its_drivers_lives_and_its_restarts():
    """The creation at the time that the series has as its value, which Grafana takes in milliseconds."""
    assert set(MARKS) == {"spike created", "driver's life begins", "restart", "incident"}
    created = MARKS["spike created"]
    assert created["useValueForTime"] is True
    assert created["expr"] == 'max by (spike) (spike_created_timestamp_seconds{spike="$spike"}) * 1000'
    assert all(mark["enable"] for mark in MARKS.values())


@pytest.mark.parametrize("name", ["fleet", "spike", "pods"])
def test_a_dashboards_json_is_what_its_code_builds(name):
    spec = importlib.util.spec_from_file_location("dashboards", GRAFANA / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (GRAFANA / f"{name}.json").read_text() == module.text(name), (
        "run .venv/bin/python deployments/grafana/build.py"
    )
