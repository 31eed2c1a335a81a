"""The images: what goes in is pinned and enough, and the entry point does what Spark on Kubernetes asks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spike_pipelines.cli.main import app
from spike_pipelines.stack.jars import spark_jars

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deployments" / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text()
ENTRYPOINT = IMAGES / "entrypoint.sh"

# Imports all that a driver is made of, in a process for which only the packages given as arguments are there.
IMPORT = """
import importlib, importlib.metadata, pkgutil, sys

there = {"spike-pipelines", *sys.argv[1:]}
owners = importlib.metadata.packages_distributions()

class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        found = {owner.lower().replace("_", "-").replace(".", "-") for owner in owners.get(name, ())}
        if found and not found & there:
            raise ModuleNotFoundError(f"{name} of {found} is not in the image", name=name)

sys.meta_path.insert(0, OnlyThese())
import spike_pipelines.driver, spike_pipelines.spark, spike_pipelines.transforms
for package in (spike_pipelines.driver, spike_pipelines.spark, spike_pipelines.transforms):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""


def locked(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


def test_the_spark_image_has_every_package_that_a_driver_imports():
    command = [sys.executable, "-c", IMPORT, *locked("spark")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["spark", "runtime"])
def test_the_images_packages_are_at_the_versions_that_are_tested(name):
    every = set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements/all.txt").read_text(), re.MULTILINE))
    chosen = set(re.findall(r"^(\S+==\S+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))
    assert chosen <= every


def test_every_base_has_a_version():
    bases = re.findall(r"^ARG (?:PYTHON|HELM)=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    stages = set(re.findall(r" AS (\S+)$", DOCKERFILE, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert base in stages | {"${PYTHON}", "${HELM}"}


@pytest.mark.parametrize("stage", ["spark", "platform"])
def test_nobody_is_root(stage):
    lines = DOCKERFILE.split(f" AS {stage}\n")[1].split("\nFROM ")[0].splitlines()
    assert "USER 185" in lines


def test_all_that_is_copied_is_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in kept, source


def test_helm_is_the_one_that_tests_use():
    [version] = re.findall(r"^ARG HELM=\S+:(\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"helm@v{version}" in (ROOT / ".ci" / "run").read_text()


def test_spike_jars_fills_a_folder_with_the_locked_connectors(tmp_path):
    done = CliRunner().invoke(app, ["jars", str(tmp_path / "jars")])
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "jars").iterdir()} == {p.name for p in spark_jars()}


@pytest.fixture
def run(tmp_path):
    """The entry point with a `tini` that writes down what it was to start, one argument a line."""
    fake = tmp_path / "bin" / "tini"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor argument in "$@"; do printf "%s\\n" "$argument"; done\n')
    fake.chmod(0o755)

    def started(*arguments: str, **environment: str) -> list[str]:
        env = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "SPARK_HOME": "/spark", "JAVA_HOME": "/java"}
        done = subprocess.run(
            [ENTRYPOINT, *arguments], env=env | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return started


def test_a_driver_is_submitted_in_its_own_pod_with_what_spark_gave_it(run):
    given = ("--properties-file", "/opt/spark/conf/spark.properties", "local:///opt/spike/driver.py", "a b")
    assert run("driver", *given, SPARK_DRIVER_BIND_ADDRESS="10.0.0.1") == [
        "-g",
        "--",
        "/spark/bin/spark-submit",
        "--deploy-mode",
        "client",
        "--conf",
        "spark.driver.bindAddress=10.0.0.1",
        "--conf",
        "spark.executorEnv.SPARK_DRIVER_POD_IP=10.0.0.1",
        *given,
    ]


EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://driver",
    "SPARK_EXECUTOR_ID": "1",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "1024m",
    "SPARK_APPLICATION_ID": "spark-1",
    "SPARK_EXECUTOR_POD_IP": "10.0.0.2",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_EXECUTOR_POD_NAME": "exec-1",
}


def test_an_executor_gets_every_java_option_in_order_and_unbroken(run):
    options = {f"SPARK_JAVA_OPT_{n}": f"-Dn={n} $(x) 'y'" for n in range(12)}
    started = run("executor", **EXECUTOR, **options, SPARK_CONF_DIR="/conf")
    assert started[2:15] == ["/java/bin/java", *options.values()]
    assert started[15:19] == ["-Xms1024m", "-Xmx1024m", "-cp", "/conf:/spark/jars/*"]
    assert started[19] == "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
    assert started[-4:] == ["--resourceProfileId", "0", "--podName", "exec-1"]


def test_an_executor_that_spark_told_too_little_does_not_start(tmp_path):
    done = subprocess.run([ENTRYPOINT, "executor"], env={"PATH": os.environ["PATH"]}, check=False)
    assert done.returncode != 0


def test_any_other_command_is_run_as_it_is(run):
    assert run("spark-class", "a b") == ["-g", "--", "spark-class", "a b"]


EXECUTOR_STANDING_IN = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(0)
signal.signal(signal.SIGPWR, end)
print("ready", flush=True)
signal.pause()
"""


def test_decommissioning_asks_and_waits_until_the_executor_is_gone(tmp_path):
    """A stand-in for Java that ends a moment after SIGPWR, and writes down that it had the time to."""
    java, done = tmp_path / "java", tmp_path / "done"
    java.symlink_to(sys.executable)
    path = tmp_path / "bin"
    path.mkdir()
    with subprocess.Popen(
        [java, "-c", EXECUTOR_STANDING_IN, done], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        (path / "pgrep").write_text(f"#!/bin/sh\necho {process.pid}\n")
        (path / "pgrep").chmod(0o755)
        asked = subprocess.Popen([IMAGES / "decommission.sh"], env={"PATH": f"{path}:{os.environ['PATH']}"})
        assert process.wait(10) == 0
        assert asked.wait(10) == 0
    assert done.exists()


def test_decommissioning_without_an_executor_is_done(tmp_path):
    (tmp_path / "pgrep").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "pgrep").chmod(0o755)
    done = subprocess.run(
        [IMAGES / "decommission.sh"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False
    )
    assert done.returncode == 0


def test_the_way_without_docker_puts_the_same_things_in_place():
    page = (ROOT / "docs" / "deploying.md").read_text()
    page = page[page.index("### Without Docker") : page.index("## A spike")]
    copied = set(re.findall(r"deployments/images/[a-z]+\.\w+", DOCKERFILE))
    assert len(copied) == 4
    assert copied <= set(re.findall(r"deployments/images/[a-z]+\.\w+", page))
    for place in ("requirements/spark.txt", "requirements/runtime.txt", "/opt/spike/venv", "/opt/java",
                  "/opt/dagster/dagster_home", "--require-hashes", "--build-constraints"):  # fmt: skip
        assert place in page
        assert place in DOCKERFILE
