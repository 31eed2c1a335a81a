"""Alert rules and dashboards as files: each rule has a runbook, promtool agrees, JSON is what is built."""

import importlib.util
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


@pytest.mark.parametrize("name", ["fleet", "spike", "pods"])
def test_a_dashboards_json_is_what_its_code_builds(name):
    spec = importlib.util.spec_from_file_location("dashboards", GRAFANA / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (GRAFANA / f"{name}.json").read_text() == module.text(name), (
        "run .venv/bin/python deployments/grafana/build.py"
    )
