"""Helm, where it can be had (in PATH, or where `go install` puts it), and what it rendered."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "deployments" / "charts"
RESOURCE = "sparkapplications.sparkoperator.k8s.io"
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


def resources(text: str) -> dict[tuple[str, str], Any]:
    """What was rendered, by kind and name."""
    found = [document for document in YAML(typ="safe").load_all(text) if document]
    named = {(document["kind"], document["metadata"]["name"]): document for document in found}
    assert len(named) == len(found), "two resources of one kind have the same name"
    return named


def kubectl(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
