"""The Spark session of this process, on a laptop or submitted."""

import os
import sys
from collections.abc import Mapping

from pyspark import SparkConf
from pyspark.sql import SparkSession

from spike_pipelines.domain.overlays import mebibytes
from spike_pipelines.domain.spike import Spike
from spike_pipelines.spark import config
from spike_pipelines.spark.environment import SparkEnvironment


def start_spark(spike: Spike, env: SparkEnvironment, more: Mapping[str, str] | None = None) -> SparkSession:
    """Started the first time, the same one after that; `more` is what this process has besides."""
    conf = SparkConf()
    if not submitted():
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # a transform's functions run in this Python
        conf.setAll(list(config.local(spike, env).items()))
    conf.setAll(list({**config.common(spike, env), **(more or {})}.items()))
    spark = SparkSession.builder.config(conf=conf).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def submitted() -> bool:
    """Whether spark-submit started this process: master, memory and jars are its business then."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def tasks_of(spike: Spike) -> int:
    """How many tasks of a batch run at once."""
    return spike.executor.instances * spike.executor.cores if submitted() else spike.driver.cores


def memory_of(spike: Spike) -> int:
    """Bytes that the tasks of a batch have together, by the application file."""
    if submitted():
        return spike.executor.instances * mebibytes(spike.executor.memory) * 1024**2
    return mebibytes(spike.driver.memory) * 1024**2
