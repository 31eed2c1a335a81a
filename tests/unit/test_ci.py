"""What CI says and does about a cluster, with stand-ins for the commands that would bring one up."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = "#!/bin/sh\n"


@pytest.fixture
def ci(tmp_path):
    """Runs `.ci/run` where only these commands are, and `make` tells which cluster it was given."""

    def run(env=None, **commands):
        (tmp_path / ".ci").mkdir()
        (tmp_path / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
        folder = tmp_path / "bin"
        folder.mkdir()
        every = {"promtool": "", "helm": "", "make": 'echo "make $1 with cluster=${KUBECONFIG:-none}"'}
        for name, body in (every | commands).items():
            (folder / name).write_text(f"{HERE}{body}\n")
            (folder / name).chmod(0o755)
        for name in ("dirname", "mktemp", "rm", "sh", "bash", "env"):
            (folder / name).symlink_to(shutil.which(name))
        command = ["bash", str(tmp_path / ".ci" / "run")]
        settings = {"PATH": str(folder), "TMPDIR": str(tmp_path), **(env or {})}
        return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_a_cluster_that_cannot_be_brought_up_is_said_and_the_rest_runs(ci):
    done = ci(docker="", kind='[ "$1" = delete ] || exit 1')
    assert done.returncode == 0, done.stderr
    assert "NO CLUSTER (KUBECONFIG is not set; kind create cluster failed" in done.stdout
    assert "make test with cluster=none" in done.stdout


def test_one_that_can_is_used_and_taken_down(ci):
    done = ci(docker="", kind='echo "kind $1"')
    assert done.returncode == 0, done.stderr
    assert "NO CLUSTER" not in done.stdout
    assert "make test with cluster=none" not in done.stdout
    assert done.stdout.rstrip().endswith("kind delete")


def test_a_cluster_from_outside_is_taken_as_it_is(ci):
    done = ci(env={"KUBECONFIG": "/theirs"}, docker="", kind='echo "kind $1"')
    assert "make test with cluster=/theirs" in done.stdout
    assert "kind" not in done.stdout


def test_without_kind_it_says_so(ci):
    assert "no kind with Docker is here" in ci().stdout
