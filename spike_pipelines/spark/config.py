"""Spark's configuration for a driver: a lean JVM, exact timestamps, and a store that fails fast.

All of it is a function of the spike and the environment; spark-submit's own settings stay as they are.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyspark

from spike_pipelines.domain.spike import Spike
from spike_pipelines.spark.environment import Environment, SparkEnvironment

# Four drivers live beside a whole stack on a laptop: no parallel collector's threads and regions, a code
# cache that the code of one query fits into, and a heap that gives back what it does not need. Stacks are
# deep, as Spark's own build has them: its parser and its regular expressions recurse. The optimising
# compiler would cost four starting drivers more CPU (25 s each, on two cores) than it ever gives back here;
# on Kubernetes, where these options do not apply, it runs.
JVM_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xss4m",
    "-XX:ReservedCodeCacheSize=96m",
    "-XX:MaxMetaspaceSize=256m",
    "-XX:MaxDirectMemorySize=96m",
    "-XX:MinHeapFreeRatio=10",
    "-XX:MaxHeapFreeRatio=30",
    "-Djava.net.preferIPv4Stack=true",
)

QUIET_ARCHIVE = ("-Xlog:cds=off", "-Xlog:cds+dynamic=off")

SQL = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # INT96 has no usable statistics
    "spark.sql.shuffle.partitions": "1",  # the only shuffle is a few counts by hour
    "spark.sql.adaptive.enabled": "false",  # nothing to adapt, and each batch would pay for asking
    "spark.sql.sources.partitionOverwriteMode": "static",
    "spark.sql.maxConcurrentOutputFileWriters": "8",  # a few hours at once, without sorting the rows
    "spark.sql.inMemoryColumnarStorage.compressed": "false",  # kept for seconds
    "spark.sql.streaming.numRecentProgressUpdates": "5",
    "spark.sql.streaming.stopTimeout": "20s",
    "spark.sql.streaming.minBatchesToRetain": "10",
    "spark.sql.ui.retainedExecutions": "5",
    "spark.ui.retainedJobs": "10",
    "spark.ui.retainedStages": "10",
    "spark.ui.retainedTasks": "100",
    "spark.sql.streaming.ui.enabled": "false",
}

# Fail within a minute: the driver's own back-off goes on from there, and says what is wrong.
S3A = {
    "impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
    "attempts.maximum": "3",
    "retry.limit": "3",
    "retry.throttle.limit": "5",
    "connection.establish.timeout": "5s",
    "connection.timeout": "30s",
    "connection.request.timeout": "60s",
    "connection.maximum": "32",
    "threads.max": "8",
    "max.total.tasks": "16",
    "performance.flags": "*",  # each attempt writes into a directory of its own: no checks for others
    "change.detection.mode": "none",
    "committer.threads": "4",
    "committer.magic.track.commits.in.memory.enabled": "false",
    "multipart.size": "32M",
    "fast.upload.active.blocks": "2",
}

MAGIC = {
    "spark.hadoop.fs.s3a.committer.name": "magic",
    "spark.hadoop.fs.s3a.committer.magic.enabled": "true",
    "spark.sql.sources.commitProtocolClass": "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol",
    "spark.sql.parquet.output.committer.class": (
        "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter"
    ),
}
RENAME = {
    "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "1",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
}

# The consumers of a bounded read are of no use to the next one, which is of another group. Idle, each keeps
# what it fetched ahead, 4 MiB and more; in five minutes, Spark's default, a day's hours are more than a heap.
BOUNDED_READS = {
    "spark.kafka.consumer.cache.capacity": "8",
    "spark.kafka.consumer.cache.timeout": "10s",
    "spark.kafka.consumer.cache.evictorThreadRunInterval": "5s",
    "spark.kafka.consumer.fetchedData.cache.timeout": "10s",
    "spark.kafka.consumer.fetchedData.cache.evictorThreadRunInterval": "5s",
}


# Measured: with the most, a tenth less CPU than with Kafka's defaults. What is kept of a sixteenth of the
# memory is several: records are fetched compressed, and kept as objects.
MOST_FETCH, LEAST_FETCH = 4 * 1024**2, 64 * 1024
MOST_POLLED, LEAST_POLLED = 5_000, 100
FETCHED_SHARE = 16


def local(spike: Spike, env: SparkEnvironment) -> Mapping[str, str]:
    """For a driver that is its own executor."""
    options = (*JVM_OPTIONS, *_class_archive(archive_path()))
    return embedded(env, cores=spike.driver.cores, memory=spike.driver.memory, options=options)


def embedded(env: SparkEnvironment, *, cores: int, memory: str, options: Sequence[str]) -> Mapping[str, str]:
    """For a JVM that does all the work; what it listens on is loopback."""
    return {
        "spark.master": env.spark_master or f"local[{cores}]",
        "spark.driver.memory": memory,
        "spark.driver.extraJavaOptions": " ".join(options),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.jars": ",".join(env.jars()),
        "spark.local.dir": str((env.state_dir / "spark").resolve()),
        "spark.ui.showConsoleProgress": "false",
    }


def archive_path() -> Path:
    """Where the classes that a driver loads are archived (`spark/class_archive.py`), if they are: with
    the installation whose jars they come from, named by what else an archive depends on."""
    java = os.environ.get("JAVA_HOME") or str(shutil.which("java"))
    made_with = repr((os.path.realpath(java), pyspark.__version__, JVM_OPTIONS))
    digest = hashlib.sha256(made_with.encode()).hexdigest()
    return Path(sys.prefix) / "share" / "spike-pipelines" / f"classes-{digest[:12]}.jsa"


def _class_archive(archive: Path) -> tuple[str, ...]:
    """A JVM whose jars have changed since does without it, and says nothing."""
    if not archive.exists():
        return ()
    return (f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", *QUIET_ARCHIVE)


def common(spike: Spike, env: SparkEnvironment) -> Mapping[str, str]:
    return {
        "spark.app.name": spike.name,
        # Names that stay the same over restarts: by default the namespace is the application's id. Where
        # Spark's UI runs (on Kubernetes) they are at its /metrics/prometheus, beside the driver's own page.
        "spark.metrics.namespace": spike.asset_name,
        "spark.sql.streaming.metricsEnabled": "true",
        "spark.metrics.conf.driver.sink.prometheusServlet.class": (
            "org.apache.spark.metrics.sink.PrometheusServlet"
        ),
        "spark.metrics.conf.driver.sink.prometheusServlet.path": "/metrics/prometheus",
        **SQL,
        **MAGIC,
        **{f"spark.hadoop.fs.s3a.{key}": value for key, value in S3A.items()},
        "spark.hadoop.fs.s3.impl": S3A["impl"],
        **_endpoint(env.s3_endpoint),
        **_event_log(env.spark_event_log),
    }


def _endpoint(endpoint: str | None) -> Mapping[str, str]:
    if endpoint is None:
        return {}
    return {
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https:")).lower(),
    }


def _event_log(directory: str | None) -> Mapping[str, str]:
    if directory is None:
        return {}
    return {"spark.eventLog.enabled": "true", "spark.eventLog.dir": directory}


def kafka_source(
    spike: Spike, env: Environment, starting_offsets: str, *, max_offsets: int, fetch: int
) -> Mapping[str, str]:
    """Options of the Kafka source. `starting_offsets` is Spark's JSON, for every partition; `fetch` is of
    `fetch_bytes`."""
    return {
        **kafka_consumer(env.kafka_bootstrap, fetch),
        "subscribe": spike.topic,
        "startingOffsets": starting_offsets,
        "maxOffsetsPerTrigger": str(max_offsets),
    }


def fetch_bytes(memory: int, partitions: int) -> int:
    """The most that a consumer asks of a partition at once, where one for each of so many shares `memory`.

    Between two batches each keeps one answer that nobody has asked for yet, and Spark what it took of the
    one before: with hundreds of partitions that are behind, more than the heap of a small driver.
    """
    return max(LEAST_FETCH, min(MOST_FETCH, memory // FETCHED_SHARE // max(1, partitions)))


def kafka_consumer(bootstrap: str, fetch: int) -> Mapping[str, str]:
    """Options of any read of ours, bounded or not."""
    return {
        "kafka.bootstrap.servers": bootstrap,
        "failOnDataLoss": "true",
        "kafka.isolation.level": "read_committed",  # an aborted transaction's records were never written
        "kafka.max.poll.records": str(max(LEAST_POLLED, MOST_POLLED * fetch // MOST_FETCH)),
        "kafka.max.partition.fetch.bytes": str(fetch),  # a larger record is fetched all the same
        "kafka.fetch.max.bytes": str(100 * 1024**2),
        "kafka.default.api.timeout.ms": "20000",
        "kafka.request.timeout.ms": "15000",
        "kafkaConsumer.pollTimeoutMs": "20000",
    }


def checkpoint_root(env: Environment, spike: Spike) -> Path:
    return env.state_dir.resolve() / "checkpoints" / spike.name
