"""`.ci/run` goes on without what it cannot install or bring up, and says which tests are skipped for it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALL_THERE = {"promtool": "", "helm": ""}


@pytest.fixture
def ci(tmp_path):
    """CI with nothing but these commands, each a line of shell; `make` tells which cluster it was given."""

    def run(env=None, **commands):
        (tmp_path / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
        folder = tmp_path / "bin"
        folder.mkdir()
        make = {"make": 'echo "make $1 with cluster=${KUBECONFIG:-none}"'}
        for name, line in (make | commands).items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)
        for name in ("dirname", "mktemp", "rm"):
            (folder / name).symlink_to(shutil.which(name))
        command = [shutil.which("bash"), tmp_path / ".ci" / "run"]
        settings = {"PATH": str(folder), "TMPDIR": str(tmp_path), **(env or {})}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        made = re.findall(r"^make (\w+)", done.stdout, re.MULTILINE)
        assert made == ["setup", "check", "test"]
        return done.stdout

    return run


def missing(said):
    return {line.split()[2]: line for line in said.splitlines() if line.startswith("ci: no ")}


def test_what_could_not_be_installed_is_one_line_each_with_the_tests_that_are_skipped(ci):
    said = missing(ci(**{"apt-get": "exit 100", "go": "exit 1"}))
    assert set(said) == {"prometheus", "helm", "cluster"}
    named = set(re.findall(r"tests/[\w./]*\w", said["prometheus"]))
    assert named == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"which\(.prom(etheus|tool).\) is None", path.read_text())
    }
    assert "tests/charts" in said["helm"]


def test_nothing_is_said_of_what_is_there_or_was_installed(ci):
    assert set(missing(ci(**{"apt-get": "exit 0", "go": "exit 0"}))) == {"cluster"}


def test_without_apt_and_go_it_goes_on_all_the_same(ci):
    assert set(missing(ci())) == {"prometheus", "helm", "cluster"}


def test_a_cluster_that_cannot_be_brought_up_is_said_and_the_rest_runs(ci):
    said = ci(**ALL_THERE, docker="", kind='[ "$1" = delete ] || exit 1')
    assert "no cluster (KUBECONFIG is not set; kind create cluster failed" in said
    assert "make test with cluster=none" in said


def test_one_that_can_is_used_and_taken_down(ci):
    said = ci(**ALL_THERE, docker="", kind='echo "kind $1"')
    assert missing(said) == {}
    assert "make test with cluster=none" not in said
    assert said.rstrip().endswith("kind delete")


def test_a_cluster_from_outside_is_taken_as_it_is(ci):
    said = ci(env={"KUBECONFIG": "/theirs"}, **ALL_THERE, docker="", kind='echo "kind $1"')
    assert "make test with cluster=/theirs" in said
    assert "kind" not in said


def test_without_kind_it_says_so(ci):
    assert "no kind with Docker is here" in missing(ci(**ALL_THERE))["cluster"]
