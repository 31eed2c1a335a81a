"""The file list is exactly what committed tasks wrote, also when tasks fail and are run twice.

A standalone cluster whose two workers have hosts of their own (127.0.0.1 and 127.0.0.2): a local master
never speculates, and a speculative task never runs on the host of the task it doubts.
"""

import contextlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pyspark
import pytest
from pyspark import SparkConf, TaskContext
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf
from spark_jvm import own_jvm

from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain import ddl
from spike_pipelines.domain.batch import HourCounts, numbered_hour
from spike_pipelines.driver.staging import staged_files
from spike_pipelines.spark import config
from spike_pipelines.spark.batch import Classified, Plan, write
from spike_pipelines.stack.jars import spark_jars

pytestmark = [pytest.mark.real, pytest.mark.spark, pytest.mark.timeout(400)]

BUCKET, PREFIX = "spike-lake", "staging/committer/1/"
ROWS, PARTITIONS, HOURS = 8_000, 4, 2
FIRST_HOUR = 491_000
PLAN = Plan(ddl.parse("id BIGINT"), datetime(2026, 1, 1, tzinfo=UTC), None, None, tasks=PARTITIONS)
COMMITTERS = {"magic": config.MAGIC, "rename": config.RENAME}


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    url = f"spark://127.0.0.1:{port}"
    commands = [
        ("master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"),
        *(
            ("worker.Worker", "--host", host, "--webui-port", "0", "--cores", "2", "--memory", "600m", url)
            for host in ("127.0.0.1", "127.0.0.2")
        ),
    ]
    with contextlib.ExitStack() as stack:
        for i, (name, *arguments) in enumerate(commands):
            stack.enter_context(daemon(name, arguments, folder / str(i)))
        yield url


@contextlib.contextmanager
def daemon(name: str, arguments: list[str], folder: Path) -> Iterator[None]:
    """One of Spark's own daemons. A worker retries until its master answers, so their order is free."""
    home = Path(pyspark.__file__).parent
    folder.mkdir()
    env = os.environ | {
        "SPARK_HOME": str(home),
        "SPARK_SCALA_VERSION": "2.13",
        "SPARK_WORKER_DIR": str(folder),
    }
    java = ["java", "-Xmx160m", "-XX:+UseSerialGC", "-cp", f"{home}/jars/*"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*java, f"org.apache.spark.deploy.{name}", *arguments],
            env=env,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()  # nothing if it has ended


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def session(s3, master: str, committer: dict[str, str], **more: str) -> SparkSession:
    settings = {
        "spark.master": master,
        "spark.executor.cores": "2",
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.cores.max": "4",
        "spark.executor.memory": "512m",
        "spark.driver.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.jars": ",".join(str(jar) for jar in spark_jars()),
        "spark.executor.extraJavaOptions": "-XX:+UseSerialGC",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "100",  # so that rows are written before a task fails
        **config.SQL,
        **committer,
        **{f"spark.hadoop.fs.s3a.{key}": value for key, value in config.S3A.items()},
        "spark.hadoop.fs.s3a.endpoint": s3.endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.access.key": s3.access_key,
        "spark.hadoop.fs.s3a.secret.key": s3.secret_key,
        **more,
    }
    return SparkSession.builder.config(conf=SparkConf().setAll(list(settings.items()))).getOrCreate()


def rows(spark: SparkSession, misbehave):
    """`ROWS` rows in `PARTITIONS` partitions over `HOURS` hours, each through Python in its task."""
    return (
        spark.range(0, ROWS, 1, PARTITIONS)
        .withColumn("id", pandas_udf(misbehave, "bigint")("id"))
        .selectExpr(
            "id",
            "0 AS kafka_partition",
            "id AS kafka_offset",
            f"timestamp_seconds({FIRST_HOUR} * 3600) AS kafka_timestamp",
            f"cast({FIRST_HOUR} + id % {HOURS} AS int) AS __spike_hour",
            "true AS __spike_kept",
            "cast(null AS string) AS __spike_reason",
        )
    )


def stage(spark: SparkSession, s3, misbehave, attempt: str):
    hours = tuple(HourCounts(numbered_hour(FIRST_HOUR + h), ROWS // HOURS, 0, 0) for h in range(HOURS))
    batch = rows(spark, misbehave)
    write(Classified(batch, batch), PLAN, hours, f"s3a://{BUCKET}/{PREFIX}{attempt}")
    return staged_files(S3ObjectStore(connect(s3.endpoint)), BUCKET, PREFIX, attempt)


def offsets(s3, files) -> list[int]:
    found: list[int] = []
    for file in files:
        body = s3.client().get_object(Bucket=BUCKET, Key=PREFIX + file.key)["Body"].read()
        found += pq.read_table(io.BytesIO(body))["kafka_offset"].to_pylist()
    return sorted(found)


def failing(marks: Path):
    """The first attempt of every task fails once it has written rows."""

    def misbehave(ids: pd.Series) -> pd.Series:
        task = TaskContext.get()
        (marks / f"failing-{task.partitionId()}-{task.attemptNumber()}").touch()
        if task.attemptNumber() == 0 and (ids % (ROWS // PARTITIONS) >= 1_000).any():
            raise OSError("this task fails the first time")
        return ids

    return misbehave


def straggling(marks: Path):
    """The first attempt of the first task stands still in its middle for longer than the others take."""

    def misbehave(ids: pd.Series) -> pd.Series:
        task = TaskContext.get()
        (marks / f"straggling-{task.partitionId()}-{task.attemptNumber()}").touch()
        if task.attemptNumber() == 0 and task.partitionId() == 0 and (ids == 1_000).any():
            time.sleep(10)
        return ids

    return misbehave


@pytest.mark.parametrize("committer", COMMITTERS)
def test_list_is_exactly_what_committed_tasks_wrote(s3, master, monkeypatch, tmp_path, committer):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    speculation = {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.multiplier": "1.5",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.minTaskRuntime": "500ms",
    }
    with own_jvm(lambda: session(s3, master, dict(COMMITTERS[committer]), **speculation)) as spark:
        for misbehaviour in (failing, straggling):
            name = misbehaviour.__name__
            files = stage(spark, s3, misbehaviour(tmp_path), f"{committer}-{name}")
            assert offsets(s3, files) == list(range(ROWS)), name
            assert sum(file.rows for file in files) == ROWS
            again = [
                mark.name
                for mark in tmp_path.iterdir()
                if mark.name.startswith(name) and mark.name[-1] != "0"
            ]
            assert again, f"{name}: no task ran twice, so nothing was attacked"
