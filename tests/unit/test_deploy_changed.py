"""What Jenkins and GitHub call: each changed application file is deployed, and nothing else."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deployments" / "deploy-changed"


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.applications = folder / "deployments" / "applications"
        self.applications.mkdir(parents=True)
        (folder / "deployments" / "deploy-changed").write_bytes(SCRIPT.read_bytes())
        (folder / "deployments" / "deploy-changed").chmod(0o755)
        self.git("init", "-q")

    def git(self, *arguments: str) -> str:
        me = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        command = ["git", *me, *arguments]
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, **files: str | None) -> str:
        for name, text in files.items():
            path = self.applications / f"{name}.yaml"
            path.unlink() if text is None else path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")

    def run(self, *arguments: str, bad: str = "none") -> subprocess.CompletedProcess[str]:
        spike = self.folder / "spike"
        spike.write_text(f'#!/bin/sh\necho "called $*"\ncase "$2" in *{bad}*) exit 1;; esac\n')
        spike.chmod(0o755)
        return subprocess.run(
            [self.folder / "deployments" / "deploy-changed", *arguments],
            env=os.environ | {"SPIKE": str(spike)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def called(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("called deploy ")]


def test_new_and_changed_files_are_deployed_and_others_are_not(repository):
    before = repository.commit(a="1", b="1")
    (repository.folder / "README.md").write_text("x")
    after = repository.commit(b="2", c="1")
    done = repository.run(before, after)
    assert done.returncode == 0, done.stderr
    assert called(done) == ["b.yaml", "c.yaml"]


def test_one_that_fails_does_not_stop_the_others_and_is_named(repository):
    before = repository.commit(a="1", b="1")
    done = repository.run(before, repository.commit(a="2", b="2"), bad="a.yaml")
    assert called(done) == ["a.yaml", "b.yaml"]
    assert done.returncode == 1
    assert done.stderr.strip() == "not as wanted: a"


def test_a_deleted_file_ends_its_spike(repository):
    before = repository.commit(a="1", **{"crt-x-v1-1.0": "1"})
    done = repository.run(before, repository.commit(**{"crt-x-v1-1.0": None}))
    assert called(done) == []
    assert "called undeploy crt-x-v1-1.0\n" in done.stdout


def test_a_renamed_file_is_one_spike_that_ends_and_one_that_begins(repository):
    before = repository.commit(a="the same text\n" * 20)
    done = repository.run(before, repository.commit(a=None, b="the same text\n" * 20))
    assert called(done) == ["b.yaml"]
    assert "called undeploy a\n" in done.stdout


def test_one_that_cannot_be_ended_is_named(repository):
    before = repository.commit(a="1")
    done = repository.run(before, repository.commit(a=None), bad="a")
    assert (done.returncode, done.stderr.strip()) == (1, "not as wanted: a")


@pytest.mark.parametrize("before", ["", "0" * 40])
def test_without_a_commit_to_compare_with_it_is_the_one_before(repository, before):
    repository.commit(a="1")
    done = repository.run(before, repository.commit(b="1"))
    assert called(done) == ["b.yaml"]


def test_in_the_first_commit_every_file_is_new(repository):
    done = repository.run("", repository.commit(a="1", b="1"))
    assert called(done) == ["a.yaml", "b.yaml"]


def test_both_pipelines_call_it():
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "deploy.yml")
    steps = workflow["jobs"]["deploy"]["steps"]
    assert any("deployments/deploy-changed" in step.get("run", "") for step in steps)
    assert "deployments/deploy-changed" in (ROOT / "deployments" / "Jenkinsfile").read_text()


@pytest.mark.parametrize("variable", ["KUBECONFIG", "SPIKE_LEDGER_URL", "SPIKE_KAFKA_BOOTSTRAP"])
@pytest.mark.parametrize("pipeline", [".github/workflows/deploy.yml", "deployments/Jenkinsfile"])
def test_both_pipelines_set_what_a_deployment_needs(pipeline, variable):
    assert re.search(rf"\b{variable}\s*[:=]", (ROOT / pipeline).read_text())
