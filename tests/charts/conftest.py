"""Helm, where it can be had: in PATH, or where `go install` puts it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "deployments" / "charts"
KUBERNETES = "1.33.0"
NO_HELM = "helm is not installed: go install helm.sh/helm/v3/cmd/helm@v3.19.0"

Helm = Callable[..., subprocess.CompletedProcess[str]]
Render = Callable[..., str]


def find_helm() -> str | None:
    """The path of the binary; None if there is none."""
    if (found := shutil.which("helm")) is not None:
        return found
    if (go := shutil.which("go")) is None:
        return None
    folder = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip()
    binary = Path(folder) / "bin" / "helm"
    return str(binary) if binary.is_file() else None


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


def resources(text: str) -> dict[tuple[str, str], Any]:
    """What was rendered, by kind and name."""
    found = [document for document in YAML(typ="safe").load_all(text) if document]
    named = {(document["kind"], document["metadata"]["name"]): document for document in found}
    assert len(named) == len(found), "two resources of one kind have the same name"
    return named
