"""`python -m spike_pipelines.spark.class_archive`: the classes that a driver loads, as a file to map.

A JVM that maps it neither finds, parses nor verifies these classes again: a third of what a driver costs
until its first batch is written. Made by a query that does what a driver's does, on made-up records and
a local folder: its JVM writes the archive at its end.
"""

import logging
import os
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.sql import DataFrame, SparkSession

from spike_pipelines.domain import ddl
from spike_pipelines.spark import config
from spike_pipelines.spark.batch import Plan, classified, counted, write
from spike_pipelines.spark.environment import SparkEnvironment

log = logging.getLogger(__name__)

BATCHES = 3
END_SECONDS = 600.0  # at the lowest priority it takes its time
QUERY_SECONDS = 600.0
SCHEMA = (
    "id STRING NOT NULL, at TIMESTAMP, amount DECIMAL(18,4), n BIGINT, "
    "one STRUCT<a: BIGINT, b: DATE>, many ARRAY<STRUCT<a: DOUBLE>>, labels MAP<STRING, STRING>"
)
_PLAN = Plan(ddl.parse(SCHEMA), datetime(2000, 1, 1, tzinfo=UTC), "n > 0", None, 1)
# The Kafka source's columns; every third record becomes a dead letter.
_RECORDS = (
    "CAST(NULL AS BINARY) AS key",
    """CAST(IF(value % 3 = 0, '{', '{"id": "a", "n": 1, "amount": 1.5}') AS BINARY) AS value""",
    "'topic' AS topic",
    "0 AS partition",
    "value AS offset",
    "timestamp",
    "0 AS timestampType",
)


def make(archive: Path, env: SparkEnvironment) -> None:
    """Write the archive. Raises whatever Spark does, and then there is none."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".classes-", dir=archive.parent) as folder:
        unfinished = Path(folder) / archive.name
        _run(_session(unfinished, env), Path(folder))
        _end_jvm()
        unfinished.replace(archive)


def _session(archive: Path, env: SparkEnvironment) -> SparkSession:
    options = (*config.JVM_OPTIONS, f"-XX:ArchiveClassesAtExit={archive}", *config.QUIET_ARCHIVE)
    settings = {**config.SQL, **config.MAGIC, **config.embedded(env, cores=1, memory="512m", options=options)}
    spark = SparkSession.builder.config(conf=SparkConf().setAll(list(settings.items()))).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def _run(spark: SparkSession, folder: Path) -> None:
    """Errors of a batch are kept from Spark, whose regular expressions overflow the stack on a long trace."""
    done: list[Exception | None] = []

    def process(records: DataFrame, number: int) -> None:
        try:
            with classified(records.selectExpr(*_RECORDS), _PLAN, datetime.now(UTC)) as rows:
                _, hours = counted(rows)
                write(rows, _PLAN, hours, (folder / str(number)).as_uri())
            done.append(None)
        except Exception as error:  # noqa: BLE001 raised below, unless the query was stopped by then
            done.append(error)

    source = spark.readStream.format("rate").option("rowsPerSecond", 100).load()
    query = (
        source.writeStream.foreachBatch(process)
        .option("checkpointLocation", (folder / "checkpoint").as_uri())
        .trigger(processingTime="500 milliseconds")
        .start()
    )
    deadline = time.monotonic() + QUERY_SECONDS
    while len(done) < BATCHES and not any(done):
        if query.awaitTermination(1) or time.monotonic() > deadline:
            raise TimeoutError(f"the query did not come to batch {BATCHES}")
    found = next(filter(None, done), None)
    query.stop()
    spark.stop()
    if found:
        raise found


def _end_jvm() -> None:
    gateway = SparkContext._gateway  # noqa: SLF001 PySpark has no other way to end its JVM
    assert gateway is not None
    gateway.shutdown()
    gateway.proc.stdin.close()
    if gateway.proc.wait(END_SECONDS):
        raise ChildProcessError(f"the JVM ended with exit code {gateway.proc.returncode}")


def main() -> None:
    """Make it where there is none, with the CPU that nobody else wants: no driver waits for it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    archive = config.archive_path()
    if archive.exists():
        log.info("%s is there", archive)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that nothing is left behind
    os.nice(19)
    try:
        make(archive, SparkEnvironment.from_env())
        log.info("%s is made", archive)
    except Exception:
        log.exception("%s could not be made: drivers start without it, only slower", archive)


if __name__ == "__main__":
    main()
