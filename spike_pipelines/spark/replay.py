"""Parses dead letters again: `python -m spike_pipelines.spark.replay APPLICATION ORDER ANSWER`.

The rules are those of the live path (`classify`), on the raw bytes that the dead letters kept. A record
that stays dead keeps bytes and place, also its place among the hours, and gets today's reason.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import expr

from spike_pipelines.adapters.applications import load_application
from spike_pipelines.adapters.replay_files import AnswerFile, OrderFile
from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.domain.batch import HourCounts, NewBatch, StagedFile, numbered_hour
from spike_pipelines.domain.spike import Spike
from spike_pipelines.driver.staging import HOUR_COLUMN, new_attempt, staged_files
from spike_pipelines.ports import ObjectStore, Reparsed, ReplayOrder
from spike_pipelines.spark import classify as c
from spike_pipelines.spark.batch import Classified, Plan, classified, counted, write
from spike_pipelines.spark.environment import SparkEnvironment
from spike_pipelines.spark.job import run_job
from spike_pipelines.spark.session import start_spark

# Of the dead-letter table, named as the Kafka source names them.
_AS_READ = (
    "kafka_topic AS topic",
    "kafka_partition AS partition",
    "kafka_offset AS offset",
    "kafka_timestamp AS timestamp",
    "key",
    "value",
    f"routed_timestamp AS {c.DECIDED}",
)
_UNTOUCHED = (
    "kafka_topic",
    *c.KAFKA_COLUMNS,
    "routed_timestamp",
    "key",
    "value",
    "reason",
    "detail",
    f"{c.hour_number('routed_timestamp')} AS {HOUR_COLUMN}",
)


def reparse(
    spark: SparkSession, spike: Spike, plan: Plan, order: ReplayOrder, store: ObjectStore
) -> Reparsed:
    """Count, and write below `order.prefix` if there is one. Errors: those of PySpark, `SpikeError`."""
    dead = spark.read.parquet(*(f"s3a://{spike.final.bucket}/{key}" for key in order.keys))
    chosen = "true" if order.reason is None else f"reason = {c.text_literal(order.reason)}"
    untouched = None if order.reason is None else dead.where(f"NOT ({chosen})").selectExpr(*_UNTOUCHED)
    kept = {} if untouched is None else _by_hour(untouched)
    with classified(dead.where(chosen).selectExpr(*_AS_READ), plan, order.planned_at) as rows:
        read, hours = counted(rows)
        hours, still = _with(hours, kept), _still(rows, untouched)
        files: tuple[StagedFile, ...] = ()
        if order.prefix is not None:
            bucket, attempt = spike.staging.bucket, new_attempt(0)
            write(rows, plan, hours, f"s3a://{bucket}/{order.prefix}{attempt}", more_dead=untouched)
            files = staged_files(store, bucket, order.prefix, attempt)
    return Reparsed(NewBatch((), files, read + sum(kept.values()), hours, spike.version), still)


def _by_hour(untouched: DataFrame) -> Mapping[datetime, int]:
    """Records that are not of the chosen reason, by the hour they stay in."""
    found = untouched.groupBy(HOUR_COLUMN).agg(expr("count(*) AS records")).collect()
    return {numbered_hour(row[HOUR_COLUMN]): row.records for row in found}


def _with(hours: Iterable[HourCounts], kept: Mapping[datetime, int]) -> tuple[HourCounts, ...]:
    counts = {h.hour: h for h in hours}
    for hour, records in kept.items():
        found = counts.get(hour, HourCounts(hour, 0, 0, 0))
        counts[hour] = replace(found, dead_letter=found.dead_letter + records)
    return tuple(counts[hour] for hour in sorted(counts))


def _still(rows: Classified, untouched: DataFrame | None) -> Mapping[str, int]:
    """Dead letters after the replay, by reason."""
    dead = rows.rows.where(f"{c.REASON} IS NOT NULL").selectExpr(f"{c.REASON} AS reason")
    both = dead if untouched is None else dead.unionByName(untouched.select("reason"))
    return {
        row.reason: row.records for row in both.groupBy("reason").agg(expr("count(*) AS records")).collect()
    }


def main(arguments: list[str]) -> int:
    return run_job("APPLICATION.yaml ORDER.json ANSWER.json", arguments, _replay)


def _replay(application: Path, told: Path, answer: Path) -> None:
    spike, env = load_application(application), SparkEnvironment.from_env()
    plan = Plan.of(spike, tasks=spike.driver.cores)
    order, store = OrderFile.model_validate_json(told.read_bytes()).order(), connect(env.s3_endpoint)
    done = reparse(start_spark(spike, env), spike, plan, order, S3ObjectStore(store))
    answer.write_text(AnswerFile.of(done).model_dump_json())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
