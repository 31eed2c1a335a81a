"""What the charts render, in full, for review. `pytest tests/charts --update-snapshots` writes it anew."""

from pathlib import Path

import pytest
from chart_tools import ROOT

HERE = Path(__file__).parent
APPLICATIONS = ROOT / "deployments" / "applications"
CASES = {
    "spike": ("spike", APPLICATIONS / "crt-payout-v1-1.0.yaml"),
    "spike-everything": ("spike", HERE / "values" / "spot.yaml", HERE / "values" / "crt-refund-v2-1.3.yaml"),
    "spike-platform": ("spike-platform", "--set=dashboards.enabled=false"),
    "spike-platform-everything": (
        "spike-platform",
        "--set=dashboards.enabled=false,history.ingress.enabled=true,monitoring.enabled=true,dagster.mayDeploy=true",
        "--set=history.ingress.tlsSecret=tls,history.s3CredentialsSecret=s3,history.s3Endpoint=http://s3",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_chart_renders_what_was_reviewed(case, render, pytestconfig):
    chart, *values = CASES[case]
    rendered = render(chart, *values)
    snapshot = HERE / "snapshots" / f"{case}.yaml"
    if pytestconfig.getoption("--update-snapshots"):
        snapshot.write_text(rendered)
    assert rendered == snapshot.read_text(), "if it is meant: pytest tests/charts --update-snapshots"


def test_every_snapshot_has_its_case():
    assert {path.stem for path in (HERE / "snapshots").glob("*.yaml")} == set(CASES)
