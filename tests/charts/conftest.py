"""Helm, and charts rendered by it."""

import subprocess
from pathlib import Path

import pytest
from chart_tools import CHARTS, KUBERNETES, NO_HELM, Helm, Render, find_helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Runs helm and gives its outcome, whatever that is."""
    binary = find_helm()
    if binary is None:
        pytest.skip(NO_HELM)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [binary, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.fixture
def render(helm: Helm) -> Render:
    """`render("spike", file, …, "--set=…")`: the chart with these values files, as text."""

    def rendered(chart: str, *values: Path | str) -> str:
        given = [x for v in values for x in (["-f", v] if isinstance(v, Path) else [v])]
        place = "spike-streaming" if chart == "spike" else "spike-platform"
        done = helm("template", chart, CHARTS / chart, "-n", place, "--kube-version", KUBERNETES, *given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return rendered
