"""`spike audit` as a script relies on it: over a real ledger, its exit code and what it prints."""

import json
from dataclasses import dataclass

import pytest
from builders import BUCKET
from typer.testing import CliRunner

from spike_pipelines.cli import audit as audit_cli
from spike_pipelines.cli.main import app
from spike_pipelines.services.audit import Auditor, Finding

pytestmark = pytest.mark.real


class Deep:
    """What the deep audit finds, as the test says."""

    findings: tuple[Finding, ...] = (Finding("D1", "every record once", "12 records"),)

    def run(self):
        return self.findings


@dataclass
class Platform:
    auditor: Auditor
    deep_auditor: Deep


@pytest.fixture
def spike(world, monkeypatch, tmp_path):
    monkeypatch.setenv("SPIKE_STATE_DIR", str(tmp_path))
    auditor = Auditor(world.ledger, world.broker, world.store, world.catalog, world.spikes)
    monkeypatch.setattr(audit_cli, "Platform", lambda: Platform(auditor, Deep()))
    driver = world.driver(world.spike())
    driver.stage(), driver.stage()
    world.settle(driver.spike)
    return lambda *options: CliRunner().invoke(app, ["audit", *options])


def test_a_ledger_that_holds_ends_with_0(spike):
    done = spike()
    assert (done.exit_code, "all invariants hold" in done.output) == (0, True)


def test_a_breach_ends_with_1_and_names_what_is_broken(spike, world):
    key = world.keys("final/")[0]
    world.store.delete(BUCKET, [key])
    done = spike()
    assert (done.exit_code, "BROKEN: " in done.output) == (1, True)
    (broken,) = [f for f in json.loads(spike("-o", "json").output) if f["breaches"]]
    assert (broken["ok"], key in str(broken["breaches"])) == (False, True)
    assert f"BROKEN: {broken['invariant']}" in done.output


def test_json_ends_with_1_too(spike, world):
    world.store.delete(BUCKET, [world.keys("final/")[0]])
    assert spike("-o", "json").exit_code == 1


def test_what_could_not_be_observed_ends_with_1(spike, world):
    world.broker.up = False
    done = spike()
    assert (done.exit_code, "not observed: " in done.output) == (1, True)


@pytest.mark.parametrize(("breaches", "code"), [((), 0), (("offset 7 is there twice",), 1)])
def test_a_breach_that_only_the_deep_audit_finds_ends_with_1(spike, monkeypatch, breaches, code):
    monkeypatch.setattr(Deep, "findings", (Finding("D1", "every record once", "12 records", breaches),))
    assert spike().exit_code == 0
    assert spike("--deep").exit_code == code
