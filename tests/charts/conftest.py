"""Helm, and charts rendered by it."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from chart_tools import CHARTS, KUBERNETES, NO_HELM, RESOURCE, ROOT, Helm, Render, find_helm, kubectl

CRD = ROOT / "tests" / "kubernetes" / "crd.yaml"


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


@pytest.fixture(scope="session")
def namespace():
    """One of this test's own, with restricted pod security. An operator's own CRD is left as it is."""
    if not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None:
        pytest.skip("no cluster: set KUBECONFIG to one you may create a namespace and a CRD in, with kubectl")
    known = kubectl("get", "crd", RESOURCE, "--ignore-not-found", "-o", "name")
    if not known:
        kubectl("apply", "-f", str(CRD))
        kubectl("wait", "--for=condition=Established", f"crd/{RESOURCE}", "--timeout=30s")
    name = f"spike-charts-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
