"""Reads hours again: `python -m spike_pipelines.spark.backfill APPLICATION`, with orders on standard input;
or `… APPLICATION s3://bucket/prefix/`, with orders there (`adapters/order_box.py`). An order may also ask
where records of some hours lie.

Each is a bounded read of exactly its pieces. Rules and writing are those of the live path. A record belongs
to the hour of its timestamp, or, where a dead letter is kept of it, to the hour it was routed to then.
"""

import json
import logging
import os
import sys
from collections.abc import Collection, Iterable
from functools import reduce
from pathlib import Path
from threading import Event
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql.functions import broadcast, col, expr

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.adapters.backfill_files import HourAnswerFile, SurveyAnswerFile, told_order
from spike_pipelines.adapters.order_box import OrderBox, serve_box
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.adapters.spark_job import INVALID
from spike_pipelines.adapters.spark_worker import serve
from spike_pipelines.domain.backfill import rounds
from spike_pipelines.domain.batch import NewBatch, StagedFile, hour_number, numbered_hour
from spike_pipelines.domain.earlier import Place
from spike_pipelines.domain.errors import InvalidSpec, SpikeError
from spike_pipelines.domain.offsets import OffsetRange
from spike_pipelines.domain.spike import Spike
from spike_pipelines.driver.life import summary
from spike_pipelines.driver.priority import NICE
from spike_pipelines.driver.staging import new_attempt, staged_files
from spike_pipelines.ports import BackfillOrder, ObjectStore, Surveyed, SurveyOrder
from spike_pipelines.spark import classify as c
from spike_pipelines.spark.batch import Plan, classified, counted, write
from spike_pipelines.spark.config import BOUNDED_READS, fetch_bytes, kafka_consumer
from spike_pipelines.spark.environment import SparkEnvironment
from spike_pipelines.spark.session import memory_of, start_spark, tasks_of

log = logging.getLogger("spike_pipelines.spark")

NICER = 2 * NICE  # than live drivers on the same machine: they get three times its share of a busy core
IDLE_SECONDS = 900.0  # without an order: who gave them is gone, or commits for very long

_CONSUMERS = "kafka.consumer:type=consumer-fetch-manager-metrics"
_SOURCE = ("topic", "partition", "offset", "timestamp", "key", "value")


class SoFar:
    """How many records of Kafka the order at work has read, as the consumers of this JVM count them (Spark
    tells of a task at its end only). With executors elsewhere nothing is known: 0. A consumer reads a little
    ahead."""

    def __init__(self, spark: SparkSession) -> None:
        gateway: Any = spark.sparkContext._gateway  # noqa: SLF001
        self._gateway, self._jvm = gateway, gateway.jvm
        self._server = self._jvm.java.lang.management.ManagementFactory.getPlatformMBeanServer()
        self._consumers = self._jvm.javax.management.ObjectName(f"{_CONSUMERS},client-id=*")
        self._read: dict[str, int] = {}  # by consumer, also of those that were closed
        self._before = 0

    def begin(self) -> None:
        self._before = self._all()

    def __call__(self) -> int:
        return self._all() - self._before

    def _all(self) -> int:
        try:
            for name in self._ask("queryNames", self._consumers, None):
                self._read[name.toString()] = int(self._ask("getAttribute", name, "records-consumed-total"))
        except Py4JError as error:  # one that was closed meanwhile; the work itself says what is wrong
            log.info("how far it is cannot be told: %s", summary(error))
        return sum(self._read.values())

    def _ask(self, method: str, *arguments: object) -> Any:
        """The server's own class is none that others may call: only its interface is."""
        known = self._jvm.java.lang.Class.forName("javax.management.MBeanServer").getMethods()
        given = self._gateway.new_array(self._jvm.java.lang.Object, len(arguments))
        for i, argument in enumerate(arguments):
            given[i] = argument
        return next(m for m in known if m.getName() == method).invoke(self._server, given)


class BackfillEnvironment(SparkEnvironment):
    """A backfill job's."""

    kafka_bootstrap: str


def session(spike: Spike, env: SparkEnvironment) -> SparkSession:
    return start_spark(spike, env, BOUNDED_READS)


def reread(
    spark: SparkSession,
    spike: Spike,
    plan: Plan,
    order: BackfillOrder,
    store: ObjectStore,
    *,
    bootstrap: str,
) -> NewBatch:
    """Count, and write below `order.prefix` if there is one. Errors: those of PySpark, `SpikeError`."""
    scan = Observation("scan")
    records = _read(spark, spike, order.pieces, bootstrap).observe(scan, expr("count(*)").alias("records"))
    mine = _of_hour(records, _dead(spark, spike, order.dead), hour_number(order.hour))
    with classified(mine, plan, order.planned_at) as rows:
        read, hours = counted(rows)
        files: tuple[StagedFile, ...] = ()
        if order.prefix is not None:
            bucket, attempt = spike.staging.bucket, new_attempt(0)
            write(rows, plan, hours, f"s3a://{bucket}/{order.prefix}{attempt}")
            files = staged_files(store, bucket, order.prefix, attempt) if hours else ()
    return NewBatch((), files, read, hours, spike.version, scan.get["records"] - read)


def survey(spark: SparkSession, spike: Spike, order: SurveyOrder, *, bootstrap: str) -> Surveyed:
    """Nothing of a record but its place is looked at. Errors: those of PySpark."""
    since, until = hour_number(order.since), hour_number(order.until)
    number = c.hour_number("timestamp")
    wanted = f"CASE WHEN {number} >= {since} AND {number} < {until} THEN {number} END AS hour"
    places = _read(spark, spike, order.pieces, bootstrap).selectExpr(wanted, "partition", "offset")
    found = (
        places.groupBy("hour", "partition")
        .agg(*map(expr, ("min(offset) AS first", "max(offset) AS last", "count(*) AS records")))
        .collect()
    )
    at = {r.partition.index: r.partition for r in order.pieces}
    mine = (
        Place(
            numbered_hour(row["hour"]),
            OffsetRange(at[row["partition"]], row["first"], row["last"] + 1),
            row["records"],
        )
        for row in found
        if row["hour"] is not None
    )
    ordered = sorted(mine, key=lambda place: (place.hour, place.range))
    return Surveyed(tuple(ordered), sum(row["records"] for row in found))


def _read(spark: SparkSession, spike: Spike, pieces: Collection[OffsetRange], bootstrap: str) -> DataFrame:
    """One bounded read takes one piece of each partition: as many reads as that needs."""
    consumer = kafka_consumer(bootstrap, fetch_bytes(memory_of(spike), len({p.partition for p in pieces})))
    reads = [
        spark.read.format("kafka").options(**consumer, **_bounds(group)).load() for group in rounds(pieces)
    ]
    return reduce(DataFrame.unionAll, reads)


def _bounds(group: Iterable[OffsetRange]) -> dict[str, str]:
    group = tuple(group)
    (topic,) = {r.partition.topic for r in group}
    starts = {str(r.partition.index): r.start for r in group}
    ends = {str(r.partition.index): r.end for r in group}
    return {
        "assign": json.dumps({topic: sorted(r.partition.index for r in group)}),
        "startingOffsets": json.dumps({topic: starts}),
        "endingOffsets": json.dumps({topic: ends}),
    }


def _dead(spark: SparkSession, spike: Spike, keys: Iterable[str]) -> DataFrame | None:
    """Where dead letters were routed to: partition, offset, timestamp."""
    paths = [f"s3a://{spike.final.bucket}/{key}" for key in keys]
    if not paths:
        return None
    dead = spark.read.parquet(*paths)
    return dead.selectExpr("kafka_partition AS __p", "kafka_offset AS __o", "routed_timestamp AS __r")


def _of_hour(records: DataFrame, dead: DataFrame | None, hour: int) -> DataFrame:
    """The records that belong to the hour, with the timestamp that says so (`classify.DECIDED`)."""
    if dead is None:
        decided = records.selectExpr(*_SOURCE, f"timestamp AS {c.DECIDED}")
    else:
        same = (col("partition") == col("__p")) & (col("offset") == col("__o"))
        joined = records.join(broadcast(dead), same, "left")
        decided = joined.selectExpr(*_SOURCE, f"coalesce(__r, timestamp) AS {c.DECIDED}")
    return decided.where(f"{c.hour_number(c.DECIDED)} = {hour}")


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    os.nice(NICER)
    if len(arguments) not in {1, 2}:
        log.error("usage: python -m spike_pipelines.spark.backfill APPLICATION.yaml [s3://… of orders]")
        return INVALID
    box: OrderBox | None = None
    try:
        env = BackfillEnvironment.from_env()
        store = S3ObjectStore(connect(env.s3_endpoint))
        box = OrderBox.at(arguments[1], store) if arguments[1:] else None
        take_orders(load_application(Path(arguments[0])), env, store, box)
    except (SpikeError, Py4JError, PySparkException) as error:
        message = str(error) if isinstance(error, SpikeError) else summary(error)
        log.error("%s", message)  # noqa: TRY400 the message is complete; a longer trace is the JVM's
        invalid = isinstance(error, InvalidSpec)
        if box is not None:
            box.fail(message, invalid=invalid)
        return INVALID if invalid else 1
    return 0


def take_orders(spike: Spike, env: BackfillEnvironment, store: ObjectStore, box: OrderBox | None) -> None:
    """From the box, or from standard input, until there are no more."""
    plan, spark = Plan.of(spike, tasks=tasks_of(spike)), session(spike, env)
    so_far = SoFar(spark)

    def answer(told: bytes) -> str:
        so_far.begin()
        order = told_order(told)
        if isinstance(order, SurveyOrder):
            found = survey(spark, spike, order, bootstrap=env.kafka_bootstrap)
            return SurveyAnswerFile.of(found).model_dump_json()
        done = reread(spark, spike, plan, order, store, bootstrap=env.kafka_bootstrap)
        return HourAnswerFile.of(done).model_dump_json()

    if box is None:
        serve(answer, so_far)
    else:
        serve_box(box, answer, so_far, idle_seconds=IDLE_SECONDS, pause=Event().wait)
    spark.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
