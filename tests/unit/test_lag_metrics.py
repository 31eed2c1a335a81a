"""What the page says of looks that are old: nothing of now, but nothing is forgotten that stands."""

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from builders import HOUR, partition
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from spike_pipelines.appender.lag_metrics import STALE, LagCollector
from spike_pipelines.domain.lag import LagReport, LagVerdict, PartitionLag
from spike_pipelines.domain.supervision import MENDED
from spike_pipelines.ports import Tally

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deployments" / "prometheus" / "spike.rules.yaml"

LOST = LagReport(
    LagVerdict.LOST, "5 records were lost", 10, 12.0, (PartitionLag(partition(), 0, 10, 12.0),),
    at=HOUR, unacknowledged_loss=5,
)  # fmt: skip
FINE = replace(LOST, verdict=LagVerdict.OK, unacknowledged_loss=0)
LATER = HOUR + STALE + timedelta(seconds=1)


class Ledger:
    def __init__(self, now, recoveries=(), incident=None, **reports):
        self.now, self.recoveries, self.reports = now, dict(recoveries), reports
        self.incident = incident

    def latest_lag(self):
        return self.reports

    def tally(self):
        return Tally(self.now, {}, {}, {}, self.recoveries, {}, incident=self.incident)


@pytest.fixture
def page():
    def made(now, recoveries=(), **reports):
        registry = CollectorRegistry()
        registry.register(LagCollector(Ledger(now, recoveries, **reports)))

        def value(name, **labels):
            return registry.get_sample_value(name, labels)

        return value

    return made


def test_a_look_that_is_old_gives_unknown_and_no_figures_of_now(page):
    value = page(LATER, a=FINE, b=FINE)
    assert value("spike_verdict", spike="a", verdict="UNKNOWN") == 1
    assert value("spike_verdict", spike="a", verdict="OK") == 0
    assert value("spike_lag_seconds", spike="a") is None
    assert page(HOUR, a=FINE)("spike_lag_seconds", spike="a") == 12


def test_a_loss_stands_while_nobody_looks(page):
    """The observer is down: its alert does not go out by itself."""
    assert page(LATER, a=LOST)("spike_lost_records", spike="a") == 5


def test_a_spike_that_later_looks_leave_out_was_removed_and_is_not_unknown_for_days(page):
    value = page(LATER, gone=LOST, here=replace(FINE, at=LATER))
    assert value("spike_verdict", spike="here", verdict="OK") == 1
    for name in ("spike_lost_records", "spike_observed_timestamp_seconds", "spike_objective_seconds"):
        assert value(name, spike="gone") is None
    assert value("spike_verdict", spike="gone", verdict="UNKNOWN") is None


def test_a_spike_that_one_look_left_out_is_still_there(page):
    value = page(HOUR + STALE, one=FINE, other=replace(FINE, at=HOUR + STALE))
    assert value("spike_verdict", spike="one", verdict="OK") == 1


def test_restarts_begin_at_zero_for_every_cause_of_every_spike(page):
    """A series that is born at 1 has no step that `increase()` could see."""
    value = page(HOUR, {("a", "HUNG"): 3, ("gone", "HUNG"): 1}, a=FINE, b=FINE)
    assert {
        cause: value("spike_restarts_total", spike="b", cause=cause) for cause in MENDED
    } == dict.fromkeys(MENDED, 0)
    assert value("spike_restarts_total", spike="a", cause="HUNG") == 3
    assert value("spike_restarts_total", spike="gone", cause="HUNG") == 1
    assert value("spike_restarts_total", spike="a", cause="RUNNING") is None


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_six_first_restarts_of_six_causes_fire_the_alert_and_are_marked_in_the_dashboard(page, tmp_path):
    """The page as Prometheus scrapes it each half minute, with one restart more every other time."""
    causes, at = sorted(MENDED)[:6], "10m"
    pages = [page(HOUR, {("a", c): 1 for c in causes[: n // 2]}, a=FINE) for n in range(21)]
    scraped = {c: [value("spike_restarts_total", spike="a", cause=c) for value in pages] for c in causes}
    (often,) = (
        rule
        for group in YAML(typ="safe").load(RULES)["groups"]
        for rule in group["rules"]
        if rule["alert"] == "SpikeRestartsOften"
    )
    case = {
        "interval": "30s",
        "input_series": [
            {"series": f'spike_restarts_total{{spike="a",cause="{c}"}}', "values": " ".join(map(shown, seen))}
            for c, seen in scraped.items()
        ],
        "promql_expr_test": [
            {
                "expr": annotation("restart").replace("$spike", "a"),
                "eval_time": "3m",
                "exp_samples": [
                    {"labels": f'{{spike="a",cause="{c}"}}', "value": 1} for c in (causes[1], causes[2])
                ],
            }
        ],
        "alert_rule_test": [
            {
                "alertname": "SpikeRestartsOften",
                "eval_time": at,
                "exp_alerts": [
                    {
                        "exp_labels": {"severity": "warning", "spike": "a"},
                        "exp_annotations": often["annotations"]
                        | {"summary": "a was restarted 6 times in an hour"},
                    }
                ],
            }
        ],
    }
    cases = {"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [case]}
    (tmp_path / "restarts.yaml").write_text(json.dumps(cases))
    command = ["promtool", "test", "rules", tmp_path / "restarts.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def shown(value):
    """As promtool takes a sample; `_` where the page has none."""
    return "_" if value is None else f"{value:g}"


def annotation(name):
    board = json.loads((ROOT / "deployments" / "grafana" / "spike.json").read_text())
    (found,) = (a["expr"] for a in board["annotations"]["list"] if a["name"] == name)
    return found


@pytest.mark.parametrize(
    ("newest", "minutes", "shown"),
    [
        (None, 0, 0), ("INCIDENT", 4, 1), ("INCIDENT_GOES_ON", 19, 1), ("INCIDENT_OVER", 0, 0),
        ("INCIDENT_GOES_ON", 21, 0),  # who would say that it is over has not looked for long
    ],
)  # fmt: skip
def test_an_incident_is_one_figure_while_it_lasts_and_nobodys_restart(page, newest, minutes, shown):
    noted = newest and (newest, HOUR - timedelta(minutes=minutes))
    value = page(HOUR, recoveries={("*", "INCIDENT"): 3, ("a", "HUNG"): 2}, incident=noted, a=FINE)
    assert value("spike_incident") == shown
    assert value("spike_restarts_total", spike="a", cause="HUNG") == 2
    assert value("spike_restarts_total", spike="*", cause="INCIDENT") is None
