"""The archive of a driver's classes: made by its own command, mapped by the JVM of a driver."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from builders import spike
from spark_jvm import own_jvm

from spike_pipelines.spark import config
from spike_pipelines.spark.environment import SparkEnvironment
from spike_pipelines.spark.session import start_spark
from spike_pipelines.stack.jars import spark_jars

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]


def test_a_driver_maps_the_archive_that_the_command_makes(tmp_path):
    env = {"SPIKE_SPARK_JARS": str(spark_jars()[0].parent), "SPIKE_STATE_DIR": str(tmp_path)}
    command = (sys.executable, "-m", "spike_pipelines.spark.class_archive")
    subprocess.run(command, env=os.environ | env, check=True)
    archive = config.archive_path()
    assert archive.exists()
    with own_jvm(lambda: start_spark(spike(), SparkEnvironment(state_dir=tmp_path))):
        jvms = [p for p in psutil.Process().children(recursive=True) if p.name() == "java"]
        assert any(str(archive) in Path(f"/proc/{jvm.pid}/maps").read_text() for jvm in jvms)


def test_without_an_archive_nothing_is_asked_of_the_jvm(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "archive_path", lambda: tmp_path / "none.jsa")
    options = config.local(spike(), SparkEnvironment(state_dir=tmp_path))["spark.driver.extraJavaOptions"]
    assert options.split() == list(config.JVM_OPTIONS)
