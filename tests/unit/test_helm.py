"""What is read of Helm's answers; a script answers in its place."""

import json
import sys
from pathlib import Path

import pytest

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.adapters.helm import HelmReleases

PAYOUT = Path(__file__).parents[2] / "deployments" / "applications" / "crt-payout-v1-1.0.yaml"
SPIKE = load_application(PAYOUT)
HISTORY = [{"revision": 1, "updated": "2026-05-01T12:00:00Z", "status": "deployed"}]


def manifest(digest, interval="30s"):
    return (
        "kind: SparkApplication\nmetadata:\n  annotations:\n"
        f'    spike-pipelines.io/spec-hash: "{SPIKE.version}"\n'
        f'    spike-pipelines.io/spec-digest: "{digest}"\n---\nkind: PodMonitor\ninterval: {interval}\n'
    )


@pytest.fixture
def releases(tmp_path):
    """`releases(before, now)`: what `helm get manifest` gives, and what an upgrade makes."""

    def stands(before, now):
        answers = {"get": before, "history": json.dumps(HISTORY)}
        answers["upgrade"] = json.dumps({"version": 2, "manifest": now})
        script = tmp_path / "helm"
        script.write_text(f"#!{sys.executable}\nimport sys\nprint({answers!r}[sys.argv[1]])\n")
        script.chmod(0o755)
        return HelmReleases("n", tmp_path, PAYOUT, str(script))

    return stands


def test_what_starts_no_driver_anew_is_no_change(releases):
    """As another time between two scrapes: a new driver would be waited for in vain, and all taken back."""
    deployed = releases(manifest("abc"), manifest("abc", "60s")).deploy(SPIKE, PAYOUT)
    assert not deployed.changed
    assert deployed.spec == "abc"


def test_another_spec_of_the_same_version_is_one(releases):
    assert releases(manifest("abc"), manifest("abd")).deploy(SPIKE, PAYOUT).changed
