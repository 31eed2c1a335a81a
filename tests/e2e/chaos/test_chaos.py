"""A small storm on a stack of its own, before the other tests' is up: every record is accounted for."""

import json
import os
import subprocess
import sys

import pytest

from spike_pipelines.stack.chaos.kinds import Kind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FAULTS = 12
OF_DRIVERS_AND_RUNS = {
    Kind.KILL_DRIVER, Kind.FREEZE_DRIVER, Kind.TWO_DRIVERS, Kind.KILL_RUN, Kind.FREEZE_RUN,
}  # fmt: skip


def test_a_dozen_faults_lose_nothing_double_nothing_and_show_nobody_half_a_commit(tmp_path):
    report = tmp_path / "report.json"
    command = (
        sys.executable, "-m", "spike_pipelines.cli.main", "chaos", "--seed", "2", "--faults", str(FAULTS),
        "--spikes", "2", "--pace", "2", "--report", str(report),
    )  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPIKE_", "AWS_"))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["breaches"] == []
    assert {throw["kind"] for throw in found["throws"]} >= OF_DRIVERS_AND_RUNS
    assert sum(bool(throw["in_flight"]) for throw in found["throws"]) == FAULTS
    assert found["snapshots"] > 2
    assert all(balance["acknowledged"] > 1_000 for balance in found["balances"])
    assert "chaos ok" in done.stdout.splitlines()[-1]
