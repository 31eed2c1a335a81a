"""A dataset, or an hour of it, in pandas; from its Iceberg table, so all of a commit or none of it.

Times are UTC; a `datetime` without a zone is taken for UTC. Errors: `InvalidSpec` for what does not
exist (a dataset, a column, a moment before the kept history), `Transient` where a server does not answer.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from spike_pipelines.adapters.iceberg import SEQUENCE, IcebergCatalog
from spike_pipelines.adapters.iceberg_connect import translated
from spike_pipelines.adapters.iceberg_files import data_files
from spike_pipelines.adapters.iceberg_history import sequences
from spike_pipelines.adapters.iceberg_schema import DEAD_LETTER_TIME, FINAL_TIME
from spike_pipelines.domain.batch import hour_of, numbered_hour
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import DEAD_LETTERS, dead_letters_of
from spike_pipelines.settings import Settings

Moment = int | datetime


def read(
    dataset: str,
    hour: datetime | None = None,
    columns: Sequence[str] | None = None,
    *,
    as_of: Moment | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """The rows of a dataset; `hour` is any time within the hour of their Kafka timestamps.

    `as_of` is a sequence number of the ledger, or a time: what readers saw then. The newest moments
    are kept, then the last of each hour for two days.
    """
    return _scan(_Query(dataset, FINAL_TIME, hour, columns, as_of, limit), settings)


def dead_letters(
    dataset: str,
    hour: datetime | None = None,
    columns: Sequence[str] | None = None,
    *,
    as_of: Moment | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Records that could not become rows, with bytes, reason and place; `hour` is that of routing."""
    table = dead_letters_of(dataset)
    return _scan(_Query(table, DEAD_LETTER_TIME, hour, columns, as_of, limit), settings)


def hours(dataset: str, as_of: Moment | None = None, settings: Settings | None = None) -> pd.DataFrame:
    """Rows, files and bytes of each hour (the index), from the table's metadata alone."""
    table = _table(dataset, settings)
    with translated(f"read the files of {dataset}"):
        found = [
            (numbered_hour(file.partition[0]), file.record_count, file.file_size_in_bytes)
            for file in data_files(table, snapshot=_snapshot_id(dataset, table, as_of))
        ]
    frame = pd.DataFrame(found, columns=["hour", "rows", "bytes"])
    frame["hour"] = pd.to_datetime(frame["hour"], utc=True)
    summed = frame.groupby("hour").agg(rows=("rows", "sum"), files=("rows", "size"), bytes=("bytes", "sum"))
    return summed.sort_index()


def datasets(settings: Settings | None = None) -> tuple[str, ...]:
    """Names of the datasets there are."""
    with closing(IcebergCatalog.connect(settings or Settings.from_env())) as catalog:
        return tuple(name for name in catalog.tables() if not name.endswith(DEAD_LETTERS))


@dataclass(frozen=True, slots=True)
class _Query:
    table: str
    time_column: str
    hour: datetime | None
    columns: Sequence[str] | None
    as_of: Moment | None
    limit: int | None


def _scan(query: _Query, settings: Settings | None) -> pd.DataFrame:
    table = _table(query.table, settings)
    scan = table.scan(
        row_filter=_within(query.time_column, query.hour),
        snapshot_id=_snapshot_id(query.table, table, query.as_of),
        limit=query.limit,
    )
    if query.columns:
        _check_columns(query.table, scan.projection(), query.columns)
        scan = scan.select(*query.columns)
    with translated(f"read {query.table}"):
        return scan.to_pandas()


def _table(name: str, settings: Settings | None) -> Table:
    with closing(IcebergCatalog.connect(settings or Settings.from_env())) as catalog:
        found = catalog.load(name)
        if found is None:
            there = ", ".join(catalog.tables()) or "none yet"
            raise InvalidSpec(f"there is no dataset {name}; there are: {there}")
        return found


def _within(column: str, hour: datetime | None) -> str | BooleanExpression:
    if hour is None:
        return AlwaysTrue()
    start = hour_of(_aware(hour))
    return f"{column} >= '{start.isoformat()}' and {column} < '{(start + timedelta(hours=1)).isoformat()}'"


def _check_columns(name: str, schema: Schema, columns: Sequence[str]) -> None:
    known = [field.name for field in schema.fields]
    for column in columns:
        if column not in known:
            raise InvalidSpec(f"dataset {name} has no column {column}; it has: {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A moment of a table that can still be read."""

    snapshot: int
    sequence: int
    at: datetime

    @classmethod
    def all(cls, snapshots: Sequence[Snapshot]) -> list["_Kept"]:
        """Oldest first. One that others made shows what the one before it does."""
        noted = [s.summary.additional_properties.get(SEQUENCE) if s.summary else None for s in snapshots]
        return [
            cls(s.snapshot_id, number, datetime.fromtimestamp(s.timestamp_ms / 1000, UTC))
            for s, number in zip(snapshots, sequences(noted), strict=True)
        ]


def _snapshot_id(name: str, table: Table, as_of: Moment | None) -> int | None:
    """The newest snapshot at or before `as_of`; None for the current state."""
    if as_of is None:
        return None
    moment = _aware(as_of) if isinstance(as_of, datetime) else as_of
    kept = _Kept.all(table.metadata.snapshots)
    reached = [k for k in kept if _reached(k, moment)]
    if reached:
        return reached[-1].snapshot
    oldest = f"sequence {kept[0].sequence}, {kept[0].at:%Y-%m-%d %H:%M:%S} UTC" if kept else "nothing yet"
    raise InvalidSpec(f"dataset {name} has nothing as of {as_of}: the oldest that is kept is {oldest}")


def _reached(kept: _Kept, moment: Moment) -> bool:
    return kept.at <= moment if isinstance(moment, datetime) else kept.sequence <= moment


def _aware(time: datetime) -> datetime:
    if not isinstance(time, datetime):
        raise InvalidSpec(
            f"{time!r} is no time: give a datetime, as in datetime(2026, 11, 22, 21, tzinfo=UTC)"
        )
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
