"""`.ci/run` goes on without what it cannot install, and says which tests are skipped for it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """CI with nothing but these commands, each a line of shell; `make` says what it was called with."""

    def ran(**commands):
        (tmp_path / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
        bin_ = tmp_path / "bin"
        bin_.mkdir()
        for name, line in {"make": 'echo "make $1"', **commands}.items():
            (bin_ / name).write_text(f"#!/bin/sh\n{line}\n")
            (bin_ / name).chmod(0o755)
        (bin_ / "dirname").symlink_to(shutil.which("dirname"))
        command = [shutil.which("bash"), tmp_path / ".ci" / "run"]
        done = subprocess.run(command, env={"PATH": str(bin_)}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stdout.splitlines() if line.startswith("make")] == [
            "make setup",
            "make check",
            "make test",
        ]
        return {line.split()[2]: line for line in done.stdout.splitlines() if line.startswith("ci: no ")}

    return ran


def test_what_could_not_be_installed_is_one_line_each_with_the_tests_that_are_skipped(run):
    said = run(**{"apt-get": "exit 100", "go": "exit 1"})
    assert set(said) == {"prometheus", "helm", "cluster"}
    named = set(re.findall(r"tests/[\w./]*\w", said["prometheus"]))
    assert named == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"which\(.prom(etheus|tool).\) is None", path.read_text())
    }
    assert "tests/charts" in said["helm"]


def test_nothing_is_said_of_what_is_there_or_was_installed(run):
    assert set(run(**{"apt-get": "exit 0", "go": "exit 0"})) == {"cluster"}


def test_without_apt_and_go_it_goes_on_all_the_same(run):
    assert set(run()) == {"prometheus", "helm", "cluster"}
