"""One micro-batch in Spark: classify once, count, write.

The classified rows are kept (memory, then disk) while the batch is staged, so Kafka is read once, and
every count and every file comes from the same classification.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row
from pyspark.sql.functions import expr

from spike_pipelines.domain import ddl
from spike_pipelines.domain.batch import FileKind, HourCounts, numbered_hour
from spike_pipelines.domain.errors import InvariantBroken
from spike_pipelines.domain.spike import Spike
from spike_pipelines.driver.staging import HOUR_COLUMN
from spike_pipelines.spark import classify as c
from spike_pipelines.spark.transform import Transform, check_columns, load_transform

_VERDICTS = ("count(*) AS read", f"count_if({c.REASON} IS NOT NULL) AS dead_letter")
_FATES = (f"count_if({c.KEPT}) AS final", f"count_if({c.REASON} IS NULL AND NOT {c.KEPT}) AS filtered")
# Tells whether two sets of records are the same, whatever their order.
_GOOD = f"{c.REASON} IS NULL"
_FINGERPRINT = (
    f"count_if({_GOOD}) AS good",
    f"bit_xor(CASE WHEN {_GOOD} THEN xxhash64({', '.join(c.KAFKA_COLUMNS)}) END) AS fingerprint",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a spike's description a batch needs, worked out once.

    `tasks`: a batch is read by at most so many tasks at once, and each writes one file for each hour
    it meets; more tasks than cores would only make more and smaller files.
    """

    columns: tuple[ddl.Column, ...]
    start: datetime
    predicate: str | None
    transform: Transform | None
    tasks: int

    @classmethod
    def of(cls, spike: Spike, *, tasks: int) -> "Plan":
        """Raises `InvalidSpec` for a schema or a transform that cannot be used."""
        transform = load_transform(spike.transform) if spike.transform else None
        return cls(ddl.parse(spike.schema), spike.dataset.start, spike.filter, transform, tasks)


@dataclass(frozen=True, slots=True)
class Classified:
    """`rows`: every record with its verdict. `candidates`: those that may become final rows, as the
    transform left them, and whether the filter keeps them. Without a transform both are one."""

    rows: DataFrame
    candidates: DataFrame


@contextmanager
def classified(records: DataFrame, plan: Plan, planned_at: datetime) -> Iterator[Classified]:
    """The batch's rows, kept until the block is left. `records` has the Kafka source's columns, and
    `classify.DECIDED` where they are dead letters that are parsed again."""
    rows = records.coalesce(plan.tasks)
    for step in c.steps(plan.columns, plan.start, planned_at, again=c.DECIDED in records.columns):
        rows = rows.selectExpr(*step)
    if plan.transform is None:
        with _cached(rows.selectExpr("*", c.kept(plan.predicate))) as both:
            yield Classified(both, both)
        return
    with _cached(rows) as kept, _cached(_transformed(kept, plan, plan.transform)) as candidates:
        yield Classified(kept, candidates)


def counted(batch: Classified) -> tuple[int, tuple[HourCounts, ...]]:
    """The number of records read, and what became of them by hour; each is counted on its own.

    Raises `InvariantBroken` if the transform did not give exactly one row for each row.
    """
    if batch.candidates is batch.rows:
        rows = _by_hour(batch.rows, *_VERDICTS, *_FATES)
        counts = [(n, row.final, row.dead_letter, row.filtered) for n, row in rows.items()]
        return sum(row.read for row in rows.values()), _hours(counts)
    verdicts = _by_hour(batch.rows, *_VERDICTS, *_FINGERPRINT)
    fates = _by_hour(batch.candidates, *_FATES, *_FINGERPRINT)
    _check_rows_are_kept(verdicts, fates)
    counts = [
        (n, fates[n].final if n in fates else 0, row.dead_letter, fates[n].filtered if n in fates else 0)
        for n, row in verdicts.items()
    ]
    return sum(row.read for row in verdicts.values()), _hours(counts)


def write(
    batch: Classified,
    plan: Plan,
    hours: tuple[HourCounts, ...],
    path: str,
    *,
    more_dead: DataFrame | None = None,
) -> None:
    """Parquet below `path`: a directory for each kind, and in it one for each hour. Nothing where there
    are no rows: a job that writes nothing costs as many requests as one that does. `more_dead` has the
    columns of dead letters and goes among them."""
    if any(h.final for h in hours):
        final = batch.candidates.where(c.KEPT).selectExpr(*c.final_columns(plan.columns, HOUR_COLUMN))
        _write(final, f"{path}/{FileKind.FINAL}")
    if any(h.dead_letter for h in hours):
        dead = batch.rows.where(f"{c.REASON} IS NOT NULL").selectExpr(*c.dead_letter_columns(HOUR_COLUMN))
        dead = dead if more_dead is None else dead.unionByName(more_dead)
        _write(dead.coalesce(1), f"{path}/{FileKind.DEAD_LETTER}")  # rare: one small file an hour


def _write(rows: DataFrame, path: str) -> None:
    rows.write.mode("errorifexists").partitionBy(HOUR_COLUMN).parquet(path)


@contextmanager
def _cached(rows: DataFrame) -> Iterator[DataFrame]:
    rows.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield rows
    finally:
        rows.unpersist()


def _transformed(rows: DataFrame, plan: Plan, transform: Transform) -> DataFrame:
    before = rows.where(_GOOD).selectExpr(*c.transform_columns(plan.columns))
    after = transform(before)
    check_columns(before, after)
    return after.selectExpr("*", *c.after_transform()).selectExpr("*", c.kept(plan.predicate))


def _by_hour(rows: DataFrame, *aggregates: str) -> dict[int, Row]:
    """Hours since 1970 → the aggregates of that hour."""
    found = rows.groupBy(c.HOUR).agg(*(expr(a) for a in aggregates)).collect()
    return {row[c.HOUR]: row for row in found}


def _check_rows_are_kept(verdicts: dict[int, Row], fates: dict[int, Row]) -> None:
    before = {n: (row.good, row.fingerprint) for n, row in verdicts.items() if row.good}
    after = {n: (row.good, row.fingerprint) for n, row in fates.items() if row.good}
    if before != after:
        found = {numbered_hour(n).isoformat(): (before.get(n), after.get(n)) for n in before | after}
        raise InvariantBroken(
            "the transform must give one row for each row and leave kafka_partition, kafka_offset and "
            f"kafka_timestamp alone; (rows, fingerprint) before and after it, by hour: {found}"
        )


def _hours(counts: list[tuple[int, int, int, int]]) -> tuple[HourCounts, ...]:
    return tuple(HourCounts(numbered_hour(n), *kinds) for n, *kinds in sorted(counts))
